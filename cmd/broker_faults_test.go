//go:build unix

package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// At -interval 0, a broker that is killed at any moment has written every message that it has
// acknowledged.
func TestKill(t *testing.T) { eachLog(t, testKill) }

func testKill(t *testing.T, start starter) {
	rounds := bustest.LongOrShort(200, 8)
	var sum tally
	torn := 0
	for round := range rounds {
		path := filepath.Join(t.TempDir(), fmt.Sprint("log", round))
		broker := start(t, path, "-interval", "0")
		// One drain answers many producers. Those with one message a payload wait most often.
		producers, batch := 3, 40
		if round%2 == 1 {
			producers, batch = 64, 1
		}
		finish := broker.load(producers, batch)
		pause(60 * time.Millisecond)
		broker.Kill()
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
	t.Parallel()
	rounds := bustest.LongOrShort(100, 8)
	var sum tally
	for round := range rounds {
		interval := []string{"0", "1ms", "20ms", "1h"}[round%4]
		path := filepath.Join(t.TempDir(), fmt.Sprint("log", round))
		// A stop takes a second, so each round tests only one of the two kinds of log.
		start := starters[[]string{"redirected", "-log"}[round/4%2]]
		broker := start(t, path, "-interval", interval)
		finish := broker.load(4, 40)
		pause(60 * time.Millisecond)
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
	t.Parallel()
	for range bustest.LongOrShort(50, 3) {
		startBroker(t).stop()
	}
}

// The broker ends with status 1 once the reading end of its log pipe is closed.
func TestPipeClosed(t *testing.T) {
	t.Parallel()
	broker, pipe := startInPipe(t, "-interval", "10ms")
	pipe.reader.Close()
	broker.produce("t", "1")
	if status := broker.Wait(); status != 1 {
		t.Errorf("the broker ended with status %d, want 1", status)
	}
	if status, stderr := broker.produce("t", "2"); status != 1 {
		t.Errorf("without a broker the producer ended with status %d: %s", status, stderr)
	}
}

// The broker ends with status 1 if its standard error, which is its log, is open only for
// reading.
func TestLogThatCantBeWritten(t *testing.T) {
	t.Parallel()
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
	broker.Signal(syscall.SIGTERM)
	pipe.readRest(t, 4096, time.Millisecond)
	if status := broker.Wait(); status != 0 {
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
	broker.Signal(syscall.SIGTERM)
	if status := broker.Wait(); status != 1 {
		t.Errorf("the broker ended with status %d, want 1", status)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %s, want at most 5s", took)
	}
}
