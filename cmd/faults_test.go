//go:build unix

package cmd_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

// writer is one producer of a load. It sends numbered messages until one is not accepted.
type writer struct {
	name    string
	acked   int // how many messages were accepted
	unknown int // how many more may have been accepted
}

// load starts count producers. Each sends batches of up to maxBatch messages to the broker
// until one of its batches is not accepted. The function finish waits until all producers have
// ended, and returns what they know.
func (daemon *daemon) load(count, maxBatch int) (finish func() []*writer) {
	var group sync.WaitGroup
	writers := make([]*writer, count)
	for i := range writers {
		writers[i] = &writer{name: fmt.Sprint("writer", i)}
		sender, topic := daemon.sender(), fmt.Sprint("topic", i%2)
		group.Go(func() {
			for err := error(nil); err == nil; {
				err = writers[i].sendBatch(daemon.t, sender, topic, 1+rand.IntN(maxBatch))
			}
		})
	}
	return func() []*writer {
		group.Wait()
		return writers
	}
}

// sendBatch sends the next count messages.
func (writer *writer) sendBatch(
	t *testing.T, sender *producer.Producer, topic string, count int,
) error {
	batch := make([]*apiv1.Message, count)
	for i := range batch {
		padding := strings.Repeat("x", rand.IntN(200))
		text := fmt.Sprintf("%s %d %s", writer.name, writer.acked+i, padding)
		batch[i] = &apiv1.Message{Topic: topic, Data: []byte(text)}
	}
	err := sender.Send(t.Context(), batch)
	switch {
	case err == nil:
		writer.acked += count
	case errors.Is(err, producer.ErrUnknown):
		writer.unknown = count
	}
	return err
}

// tally has the result of verify, which compares a log with what writers know.
type tally struct {
	acked   int // messages that were accepted
	unknown int // messages that may have been accepted
	lost    int // accepted messages that are not in the log
	extra   int // messages that the log has again, or after a later one
}

// verify compares a log with what the writers know. It fails the test unless the log has each
// accepted message once and in order. Of a payload with an unknown outcome, the log must have
// all messages or none. If the broker was killed, the last line may be torn, and the log may
// have a part of that payload.
func verify(t *testing.T, log string, writers []*writer, killed bool) (sum tally) {
	t.Helper()
	if !killed && !strings.HasSuffix(log, "\n") {
		t.Fatalf("the last line is torn: %.100q", log[strings.LastIndexByte(log, '\n')+1:])
	}
	next := make(map[string]int) // the number that is expected next, by writer
	for _, message := range bustest.Messages(t, log) {
		name, rest, _ := strings.Cut(message.Data, " ")
		digits, _, _ := strings.Cut(rest, " ")
		number, err := strconv.Atoi(digits)
		if err != nil {
			t.Fatalf("no writer sent %.100q", message.Data)
		}
		if number < next[name] {
			sum.extra++
			continue
		}
		sum.lost += number - next[name]
		next[name] = number + 1
	}
	for _, writer := range writers {
		sum.acked += writer.acked
		sum.unknown += writer.unknown
		sum.lost += max(writer.acked-next[writer.name], 0)
		more := next[writer.name] - writer.acked
		if more > 0 && more != writer.unknown && !(killed && more < writer.unknown) {
			t.Fatalf("%s: the log has %d messages beyond the %d that were accepted, "+
				"want 0 or the %d with unknown outcome",
				writer.name, more, writer.acked, writer.unknown)
		}
		delete(next, writer.name)
	}
	if sum.lost > 0 || sum.extra > 0 || len(next) > 0 {
		t.Fatalf("of %d accepted messages %d are lost, and %d are repeated or out of order; "+
			"unknown writers: %v", sum.acked, sum.lost, sum.extra, next)
	}
	return sum
}

// add adds the tally of another round.
func (sum *tally) add(other tally) {
	sum.acked += other.acked
	sum.unknown += other.unknown
	sum.lost += other.lost
	sum.extra += other.extra
}

// shortPause sleeps for a random time of up to 60 ms. It chooses the moment of a signal or of a
// rotation.
func shortPause() {
	time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
}

// At -interval 0, a broker that is killed at any moment has written every message that it has
// acknowledged.
func TestKill(t *testing.T) { eachLog(t, testKill) }

func testKill(t *testing.T, start starter) {
	rounds := longOrShort(200, 8)
	var sum tally
	torn := 0
	for round := range rounds {
		path := filepath.Join(t.TempDir(), fmt.Sprint("log", round))
		broker := start(t, path, "-interval", "0")
		finish := broker.load(3, 40)
		shortPause()
		broker.signal(syscall.SIGKILL)
		broker.wait()
		log := broker.Log.String()
		sum.add(verify(t, log, finish(), true))
		if !strings.HasSuffix(log, "\n") {
			torn++
		}
	}
	t.Logf("figure: %d kills at -interval 0: %d acknowledged messages, %d of them lost, %d twice; "+
		"%d last lines torn", rounds, sum.acked, sum.lost, sum.extra, torn)
}

// A broker that is stopped at any moment has written every message that it has acknowledged,
// once, and no other message.
func TestStop(t *testing.T) {
	rounds := longOrShort(100, 8)
	var sum tally
	for round := range rounds {
		interval := []string{"0", "1ms", "20ms", "1h"}[round%4]
		path := filepath.Join(t.TempDir(), fmt.Sprint("log", round))
		// A stop takes a second, so each round tests only one of the two kinds of log.
		start := starters[[]string{"redirected", "-log"}[round/4%2]]
		broker := start(t, path, "-interval", interval)
		finish := broker.load(4, 40)
		shortPause()
		broker.stop()
		sum.add(verify(t, broker.Log.String(), finish(), false))
	}
	if sum.unknown > 0 {
		t.Errorf("the outcome of %d messages is unknown after a stop, want 0", sum.unknown)
	}
	t.Logf("figure: %d stops under load: %d acknowledged messages, %d of them lost, %d twice; "+
		"%d unknown outcomes", rounds, sum.acked, sum.lost, sum.extra, sum.unknown)
}

// A signal stops the broker even if it arrives right after the listening line.
func TestStopAtOnce(t *testing.T) {
	for range longOrShort(50, 3) {
		startBroker(t).stop()
	}
}

// The broker ends with status 1 once the reading end of its log pipe is closed.
func TestPipeClosed(t *testing.T) {
	broker, pipe := startInPipe(t, "-interval", "10ms")
	pipe.reader.Close()
	broker.produce("t", "1")
	if status := broker.wait(); status != 1 {
		t.Errorf("the broker ended with status %d, want 1", status)
	}
	if status, stderr := broker.produce("t", "2"); status != 1 {
		t.Errorf("without a broker the producer ended with status %d: %s", status, stderr)
	}
}

// The broker ends with status 1 if its standard error, which is its log, is open only for
// reading.
func TestLogThatCantBeWritten(t *testing.T) {
	reading, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	broker := brokerCommand()
	broker.Stderr = reading
	if status, _, _ := finish(t, broker); status != 1 {
		t.Errorf("the broker ended with status %d, want 1", status)
	}
}

// A command that fails ends with the right status even if it can't write to standard error.
func TestStatusWithoutStandardError(t *testing.T) {
	const badHost = "256.1.1.1"
	for name, test := range map[string]struct {
		status    int
		arguments []string
	}{
		"misuse of the broker":   {2, []string{"broker", "-interval", "-1s"}},
		"a broker's failure":     {1, []string{"broker", "-phost", badHost}},
		"misuse of the producer": {2, []string{"producer", "-bad"}},
		"a producer's failure": {1, []string{"producer", "-host", badHost,
			"-topic", "t", "-message", "x"}},
	} {
		for _, full := range []bool{false, true} {
			stderr := brokenPipe(t, full)
			command := command(test.arguments[0], test.arguments[1:]...)
			command.Stderr = stderr
			if got, _, _ := finish(t, command); got != test.status {
				t.Errorf("%s, with a full pipe: %v: status %d, want %d",
					name, full, got, test.status)
			}
		}
	}
}

// brokenPipe returns the writing end of a pipe that can't be written to. If full is true, the
// pipe is full and nobody reads it. Otherwise its reading end is closed.
func brokenPipe(t *testing.T, full bool) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		writer.Close()
		reader.Close()
	})
	if !full {
		reader.Close()
		return writer
	}
	writer.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for err == nil {
		_, err = writer.Write(make([]byte, 4096))
	}
	return writer
}

// repeated returns a payload that has the same message count times.
func repeated(count int, topic, data string) string {
	return bustest.Payload(topic, slices.Repeat([]string{data}, count)...)
}

// While nobody reads the log pipe, the broker accepts messages until its queue is full. It
// writes all of them once the pipe is read, however slowly.
func TestPipeStuckThenSlow(t *testing.T) {
	t.Parallel()
	broker, pipe := startInPipe(t,
		"-interval", "10ms", "-max-queued", "2000000", "-timeout", "3s")
	message := "stuck " + strings.Repeat("x", 1000)
	accepted := 10 * broker.fill(repeated(10, "t", message))
	broker.signal(syscall.SIGTERM)
	pipe.readRest(t, 4096, time.Millisecond)
	if status := broker.wait(); status != 0 {
		t.Errorf("the broker ended with status %d, want 0", status)
	}
	logged := broker.Received("t")
	if want := slices.Repeat([]string{message}, accepted); !slices.Equal(logged, want) {
		t.Errorf("the log has %d messages, want the %d that were accepted", len(logged), accepted)
	}
	if accepted < 1000 {
		t.Errorf("%d messages were accepted, want at least 1000", accepted)
	}
	t.Logf("figure: a pipe that is not read, then read slowly: "+
		"%d messages accepted before \"queue is full\", %d logged", accepted, len(logged))
}

// If nobody ever reads the log pipe, a stopping broker ends with status 1 soon after -timeout.
func TestPipeStuckForGood(t *testing.T) {
	t.Parallel()
	broker, _ := startInPipe(t, "-interval", "10ms", "-max-queued", "1000000", "-timeout", "1s")
	broker.fill(repeated(10, "t", strings.Repeat("\x00", 1000)))
	begin := time.Now()
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 1 {
		t.Errorf("the broker ended with status %d, want 1", status)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %s, want at most 5s", took)
	}
}

// While the queue is full, the broker refuses lines, and the producer names the first of them.
// With -retry the producer waits until there is room.
func TestLinesToAFullBroker(t *testing.T) {
	t.Parallel()
	want := bustest.Numbers(1, 20_000)
	broker, pipe := startInPipe(t, "-interval", "10ms", "-timeout", "1s", "-max-queued", "100000")
	status, got := sendLines(t, broker.Address, strings.NewReader(strings.Join(want, "\n")))
	refused := broker.Address + ": refused: queue is full"
	if status != 1 || got.accepted == 0 || got.first != got.accepted+1 ||
		got.last < got.first || got.reason != refused {
		t.Fatalf("the producer ended with status %d and reported %+v", status, got)
	}
	rest := strings.NewReader(strings.Join(want[got.accepted:], "\n"))
	process := producerFor(broker.Address, rest, "-lines", "-retry", "1h")
	stderr := start(t, process)
	// The broker serves waiting clients in turn, each for up to -timeout. So between two
	// refusals of other clients it has also refused the producer.
	for range 2 {
		broker.fill(bustest.Payload("other", ""))
	}
	go pipe.readRest(t, 4096, 0)
	if err := process.Wait(); err != nil {
		t.Errorf("the producer failed: %v: %s", err, stderr)
	}
	broker.stop()
	bustest.Until(t, "the last message", func() bool {
		return len(broker.Received("t")) == len(want)
	})
	if got := broker.Received("t"); !slices.Equal(got, want) {
		t.Errorf("the log has %d messages, want the %d lines in order", len(got), len(want))
	}
}
