package cmd_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// bound returns how much memory the contract allows a broker, in bytes.
func bound(maxQueued, maxPayload int) int {
	return 8<<20 + maxQueued*5/2 + maxPayload*6
}

// peakMemory returns the largest resident memory that a process has had, in bytes, or
// that it has ended.
func peakMemory(pid int) (size int, running bool) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	line := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(status)
	if line == nil {
		return 0, false
	}
	kib, _ := strconv.Atoi(string(line[1]))
	return kib << 10, true
}

// peakMemory returns the largest resident memory that the broker has had, in bytes.
func (daemon *daemon) peakMemory() int {
	daemon.t.Helper()
	size, running := peakMemory(daemon.command.Process.Pid)
	if !running {
		daemon.t.Fatal("the broker has ended, so its memory is unknown")
	}
	return size
}

// skipWithRaceDetector skips a test of memory: the race detector takes its own.
func skipWithRaceDetector(t *testing.T) {
	t.Helper()
	if buildFlags != nil {
		t.Skip("the race detector takes memory of its own")
	}
}

// A great many topics leave little behind.
func TestManyTopics(t *testing.T) { eachLog(t, testManyTopics) }

func testManyTopics(t *testing.T, start starter) {
	broker := start(t, filepath.Join(t.TempDir(), "log"), "-interval", "20ms")
	const batch = 1000
	count := longOrShort(100_000, 20_000)
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
	if made != count || got != count {
		t.Errorf("%d topics were made, %d messages logged, want %d", made, got, count)
	}
	t.Logf("figure: %d topics: peak memory %d MiB", count, peak>>20)
}

// A flood of small messages goes through a small queue, in order, and the memory stays
// bounded.
func TestFlood(t *testing.T) { eachLog(t, testFlood) }

func testFlood(t *testing.T, start starter) {
	skipWithRaceDetector(t)
	const maxQueued, maxPayload, batch = 32 << 20, 16 << 20, 10_000
	broker := start(t, filepath.Join(t.TempDir(), "log"),
		"-interval", "1s", "-max-queued", fmt.Sprint(maxQueued))
	count := longOrShort(10_000_000, 300_000)
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
		t.Errorf("%d messages of %d are in the log", got, count)
	}
	if peak > limit {
		t.Errorf("%d bytes of memory, over %d", peak, limit)
	}
	t.Logf("figure: %d messages through -max-queued %d MiB in %.1f s: "+
		"peak memory %d MiB, bound %d MiB",
		count, maxQueued>>20, took.Seconds(), peak>>20, limit>>20)
}

// filling is what a queue is filled with.
type filling struct {
	maxQueued, maxPayload int
	payloads              []string
	short                 bool // for the short form, too
}

// The bound on memory holds for each kind of messages that the queue can be filled
// with, while payloads of the largest size come in and are refused.
func TestMemoryBound(t *testing.T) {
	skipWithRaceDetector(t)
	text := func(size int) string { return strings.Repeat("\x00", size) }
	one := []string{repeated(1, "t", ""), repeated(1, "u", "")}
	for name, test := range map[string]filling{
		"a message a payload": {8 << 20, 64 << 10, one, true},
		"15 bytes a message":  {64 << 20, 16 << 20, []string{repeated(10_000, "t", "")}, false},
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
		if torture || test.short {
			t.Run(name, func(t *testing.T) { fillAndRefuse(t, name, test) })
		}
	}
}

// alternating returns a payload of count messages without data, on topics in turn.
func alternating(topics, count int) string {
	messages := make([]*apiv1.Message, count)
	for i := range messages {
		messages[i] = &apiv1.Message{Topic: fmt.Sprint(i % topics)}
	}
	return bustest.Encode(messages...)
}

// fillAndRefuse fills the queue of a broker whose log takes nothing, sends payloads
// that are read, decoded and refused, and checks the broker's peak memory.
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
			t.Fatalf("the reply is %+v", *reply)
		}
	}
	peak, limit := broker.peakMemory(), bound(test.maxQueued, test.maxPayload)
	if peak > limit {
		t.Errorf("%d MiB of memory, over %d MiB", peak>>20, limit>>20)
	}
	t.Logf("figure: full of %s, %d payloads of %d bytes: peak memory %d MiB, bound %d MiB",
		name, accepted, len(test.payloads[0]), peak>>20, limit>>20)
}

// Whatever comes in and whatever the broker does, the producer's memory is bounded.
func TestProducerMemory(t *testing.T) {
	skipWithRaceDetector(t)
	broker := startBroker(t, "-interval", "10ms")
	silent := bustest.Listen(t).Addr().String()
	const tooLong = "not accepted: the message is longer than 268435456 bytes"
	for name, test := range map[string]struct {
		input     io.Reader
		address   string
		arguments []string
		status    int
		want      string // in standard error
		limit     int    // in MiB
	}{
		"lines without an end": {&bustest.Endless{}, silent,
			[]string{"-lines", "-timeout", "2s"}, 3, "outcome unknown", 64},
		"a line without an end": {&bustest.Endless{OneLine: true}, broker.Address,
			[]string{"-lines"}, 1, "from line 1 on: " + tooLong, 450},
		"input without an end": {&bustest.Endless{OneLine: true}, broker.Address,
			nil, 1, tooLong, 450},
		"many lines after a long one": {longLineFile(t), silent,
			[]string{"-lines", "-timeout", "2s"}, 1, "sending broke off", 300},
	} {
		t.Run(name, func(t *testing.T) {
			producer := producerFor(test.address, test.input, test.arguments...)
			stderr := start(t, producer)
			peak := 0
			bustest.Until(t, "the producer's end", func() bool {
				size, running := peakMemory(producer.Process.Pid)
				peak = max(peak, size>>20)
				return !running
			})
			producer.Wait()
			status := producer.ProcessState.ExitCode()
			if status != test.status || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("status %d: %s", status, stderr)
			}
			if peak > test.limit {
				t.Errorf("%d MiB of memory, over %d", peak, test.limit)
			}
			t.Logf("figure: %s: the producer's peak memory %d MiB", name, peak)
		})
	}
}

// longLineFile returns a file of a line of 60 MiB and 20 Mi empty lines.
func longLineFile(t *testing.T) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "input")
	text := strings.Repeat("x", 60<<20) + strings.Repeat("\n", 20<<20)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}
