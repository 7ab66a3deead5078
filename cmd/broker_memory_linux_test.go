package cmd_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// bound returns the bound on a broker's resident memory for these limits, in bytes. The README
// has the formula.
func bound(maxQueued, maxPayload int) int {
	return 8<<20 + maxQueued*5/2 + maxPayload*6
}

// peakMemory returns the peak of the broker's resident memory, in bytes.
func (b *brokerProcess) peakMemory() int {
	b.t.Helper()
	size, running := b.PeakMemory()
	if !running {
		b.t.Fatal("the broker has ended, want it running to read its memory")
	}
	return size
}

// skipWithRaceDetector skips a test of memory under the race detector.
func skipWithRaceDetector(t *testing.T) {
	t.Helper()
	if bustest.RaceDetector {
		t.Skip("the race detector needs memory, too")
	}
}

// A message on each of many topics is accepted and logged, and each topic is created once. Each
// notice is logged, or counted while the log does not keep up.
func TestManyTopics(t *testing.T) { eachLog(t, testManyTopics) }

func testManyTopics(t *testing.T, start starter) {
	broker := start(t, filepath.Join(t.TempDir(), "log"), "-interval", "20ms")
	const batch = 1000
	count := bustest.LongOrShort(100_000, 20_000)
	padding := strings.Repeat("x", 200)
	for first := 0; first < count; first += batch {
		var messages []*apiv1.Message
		for i := range batch {
			topic := fmt.Sprintf("%d %s", first+i, padding)
			messages = append(messages, &apiv1.Message{Topic: topic})
		}
		broker.Accept(bustest.Encode(messages...), batch)
	}
	peak := broker.peakMemory()
	broker.stop()
	log := broker.Log.String()
	made, got := strings.Count(log, " creating topic "), len(bustest.Messages(t, log))
	notices := made + strings.Count(log, " new message dispatched on topic ")
	leftOut := regexp.MustCompile(`log lines left out while the log did not keep up: (\d+)\n`)
	for _, match := range leftOut.FindAllStringSubmatch(log, -1) {
		dropped, err := strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
		notices += dropped
	}
	if made > count || notices != 2*count || got != count {
		t.Errorf("the log has %d new topics, %d notices and %d messages, "+
			"want at most %d, %d and %d", made, notices, got, count, 2*count, count)
	}
	t.Logf("figure: %d topics: peak memory %d MiB", count, peak>>20)
}

// Many small messages pass through a small queue. All are logged, and the broker's memory stays
// within its bound.
func TestFlood(t *testing.T) { eachLog(t, testFlood) }

func testFlood(t *testing.T, start starter) {
	skipWithRaceDetector(t)
	const maxQueued, maxPayload, batch = 32 << 20, 16 << 20, 10_000
	broker := start(t, filepath.Join(t.TempDir(), "log"),
		"-interval", "1s", "-max-queued", fmt.Sprint(maxQueued))
	count := bustest.LongOrShort(10_000_000, 300_000)
	payload := repeated(batch, "t", "x")
	begin := time.Now()
	for sent := 0; sent < count; sent += batch {
		broker.Accept(payload, batch)
	}
	took := time.Since(begin)
	peak, limit := broker.peakMemory(), bound(maxQueued, maxPayload)
	broker.stop()
	line := "Received new message from topic 't': 'x'\n"
	if got := strings.Count(broker.Log.String(), line); got != count {
		t.Errorf("the log has %d messages, want %d", got, count)
	}
	if peak > limit {
		t.Errorf("the peak memory is %d bytes, want at most %d", peak, limit)
	}
	t.Logf("figure: %d messages through -max-queued %d MiB in %.1f s: "+
		"peak memory %d MiB, bound %d MiB",
		count, maxQueued>>20, took.Seconds(), peak>>20, limit>>20)
}

// filling is a case of TestMemoryBound: the broker's limits, and the payloads that fill its queue.
type filling struct {
	maxQueued, maxPayload int
	payloads              []string
	short                 bool // run it in the short form of the tests, too
}

// The bound on memory holds whatever kind of messages fills the queue, even while the broker
// reads and refuses payloads of the largest size.
func TestMemoryBound(t *testing.T) {
	t.Parallel()
	skipWithRaceDetector(t)
	text := func(size int) string { return strings.Repeat("\x00", size) }
	one := []string{repeated(1, "t", ""), repeated(1, "u", "")}
	for name, test := range map[string]filling{
		"a message a payload": {bustest.LongOrShort(8<<20, 3<<20),
			bustest.LongOrShort(64<<10, 512<<10), one, true},
		"15 bytes a message": {64 << 20, 16 << 20, []string{repeated(10_000, "t", "")}, false},
		"1 KiB a message": {64 << 20, 16 << 20,
			[]string{repeated(1000, "t", text(1000))}, false},
		"a payload's size a message": {64 << 20, 16 << 20,
			[]string{repeated(1, "t", text(16<<20-100))}, false},
		"just over a power of 2": {64 << 20, 16 << 20,
			[]string{repeated(1, "t", text(1<<20+1))}, false},
		"two topics in turn": {64 << 20, 16 << 20, []string{alternating(2, 10_000)}, false},
		"a topic a message":  {64 << 20, 16 << 20, []string{alternating(10_000, 10_000)}, true},
		"a small queue, largest payloads": {1 << 20, 16 << 20,
			[]string{repeated(100, "t", text(1000))}, true},
		"small limits, data that is escaped": {1 << 20, 1 << 20,
			[]string{repeated(1, "t", strings.Repeat("\x01", 1<<20-1000))}, true},
	} {
		if bustest.Torture || test.short {
			t.Run(name, func(t *testing.T) { fillAndRefuse(t, name, test) })
		}
	}
}

// alternating returns a payload of count messages without data. Their topics take turns.
func alternating(topics, count int) string {
	messages := make([]*apiv1.Message, count)
	for i := range messages {
		messages[i] = &apiv1.Message{Topic: fmt.Sprint(i % topics)}
	}
	return bustest.Encode(messages...)
}

// fillAndRefuse fills the queue of a broker whose log pipe nobody reads. Then it sends payloads
// that the broker reads, decodes and refuses, and checks the broker's peak memory.
func fillAndRefuse(t *testing.T, name string, test filling) {
	broker, _ := startInPipe(t, "-interval", "10ms", "-timeout", "1s",
		"-max-queued", fmt.Sprint(test.maxQueued), "-max-payload", fmt.Sprint(test.maxPayload))
	accepted := broker.fill(test.payloads...)
	const smallest = "\x82" + topicKey + "\xa1a" + dataKey + "\xc0"
	count := min(test.maxPayload/len(smallest)-1, test.maxQueued/128)
	many := header(0xdd, 4, int64(count)) + strings.Repeat(smallest, count)
	for _, payload := range []string{
		many, many + "\xc0",
		strings.Repeat("x", test.maxPayload+1),
		alternating(test.maxPayload/30, test.maxPayload/30),
	} {
		if reply := broker.Send(payload); reply.Error == "" {
			t.Fatalf("the reply is %+v, want a refusal", *reply)
		}
	}
	peak, limit := broker.peakMemory(), bound(test.maxQueued, test.maxPayload)
	if peak > limit {
		t.Errorf("the peak memory is %d MiB, want at most %d MiB", peak>>20, limit>>20)
	}
	t.Logf("figure: full of %s, %d payloads of %d bytes: peak memory %d MiB, bound %d MiB",
		name, accepted, len(test.payloads[0]), peak>>20, limit>>20)
}
