//go:build unix

package cmd_test

import (
	"fmt"
	"mbus/internal/shared/bustest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A producer sends one message. The test compares the whole log.
func TestTranscript(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	begin := time.Now()
	status, stderr := broker.produce("orders", "look ma! a new order")
	if status != 0 || stderr != "" {
		t.Errorf("the producer ended with status %d: %s", status, stderr)
	}
	broker.Expect("new message dispatched on topic orders")
	text := broker.Log.String()
	if time.Since(begin) < 2*time.Second && strings.Contains(text, "Received") {
		t.Error("the message was drained before the first tick")
	}
	broker.Expect("Received new message from topic 'orders': 'look ma! a new order'")
	broker.stop()
	const stamp = `\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `
	want := `^` + stamp + `Broker: start listening for incoming producer messages\.\.\.
` + stamp + `Broker: listening on 127\.0\.0\.1:\d+
` + stamp + `creating topic orders
` + stamp + `new message dispatched on topic orders
` + stamp + `Received new message from topic 'orders': 'look ma! a new order'
` + stamp + `Broker: stopping: SIGTERM
` + stamp + `Broker: stopped
$`
	if got := broker.Log.String(); !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("the log is\n%s", got)
	}
}

// A broker that can't start says why in one line and ends with status 1.
func TestBrokerCannotStart(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	taken := fmt.Sprintf("broker: listen tcp %s: bind: address already in use\n", broker.Address)
	expect(t, 1, taken, "broker", "-pport", broker.port)
	status, _, stderr := run(t, "broker", "-phost", "no-such-host.invalid")
	if status != 1 || strings.Count(stderr, "\n") != 1 ||
		!strings.HasPrefix(stderr, "broker: listen tcp: lookup no-such-host.invalid") {
		t.Errorf("with an unknown host the broker ended with status %d: %s", status, stderr)
	}
}

// counts has the numbers of the line that a broker writes after SIGUSR1.
type counts struct {
	payloadsAccepted, payloadsRefused                 int
	messagesAccepted, messagesWritten, messagesQueued int
	bytesQueued, maxQueued, topics                    int
}

// allCounts returns the counts of each line of counts in text, which is a log or a broker's
// standard error. It fails the test unless messages written and queued add up to those accepted.
func allCounts(t *testing.T, text string) []counts {
	t.Helper()
	var all []counts
	for _, line := range bustest.Lines(t, text[:strings.LastIndexByte(text, '\n')+1]) {
		if !strings.HasPrefix(line, "Broker: up ") {
			continue
		}
		var got counts
		_, rest, _ := strings.Cut(line, ", ")
		_, err := fmt.Sscanf(rest, "payloads %d accepted %d refused, messages %d accepted "+
			"%d written %d queued, %d of %d bytes queued, %d topics",
			&got.payloadsAccepted, &got.payloadsRefused, &got.messagesAccepted,
			&got.messagesWritten, &got.messagesQueued,
			&got.bytesQueued, &got.maxQueued, &got.topics)
		if err != nil || got.messagesAccepted != got.messagesWritten+got.messagesQueued {
			t.Errorf("the counts are malformed or don't add up: %v: %s", err, line)
		}
		all = append(all, got)
	}
	return all
}

// count asks a broker for its counts, and returns them. The broker writes them to output.
func (daemon *daemon) count(output fmt.Stringer) counts {
	daemon.t.Helper()
	before := len(allCounts(daemon.t, output.String()))
	daemon.Signal(syscall.SIGUSR1)
	var all []counts
	bustest.Until(daemon.t, "the counts", func() bool {
		all = allCounts(daemon.t, output.String())
		return len(all) > before
	})
	return all[before]
}

// expectCounts waits until a broker's counts are want. They may lag behind the log: the broker
// counts a message as written a moment after it has written it.
func (daemon *daemon) expectCounts(output fmt.Stringer, want counts) {
	daemon.t.Helper()
	bustest.Until(daemon.t, fmt.Sprintf("the counts %+v", want), func() bool {
		return daemon.count(output) == want
	})
}

// Under load, the counts add up and never fall. After the load they match what was sent. An
// empty payload is not counted. A payload is counted even if its sender does not read the reply.
func TestCounts(t *testing.T) {
	t.Parallel()
	const clients = 4
	rounds := bustest.LongOrShort(5000, 300)
	broker := startBroker(t, "-interval", "1ms")
	var running sync.WaitGroup
	var failed atomic.Int32
	for range clients {
		running.Go(func() {
			payload := bustest.Payload("t", "1", "2", "3")
			for range rounds {
				for text, count := range map[string]int{payload: 3, "": 0, "\xc0": 0} {
					reply, err := broker.Post(text)
					if err != nil || reply.Accepted != count {
						failed.Add(1)
					}
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	var last counts
	for !isClosed(ended) {
		got := broker.count(broker.Log)
		if got.payloadsAccepted < last.payloadsAccepted ||
			got.payloadsRefused < last.payloadsRefused ||
			got.messagesWritten < last.messagesWritten {
			t.Errorf("the counts fell from %+v to %+v", last, got)
		}
		last = got
	}
	if failed.Load() > 0 {
		t.Errorf("%d payloads got a wrong reply or none", failed.Load())
	}
	connection := broker.Dial()
	connection.Put(bustest.Payload("u", "4"))
	connection.Close()
	bustest.Until(t, "the last message", func() bool { return len(broker.Received("u")) == 1 })

	const overhead = 512 // bytes queued for an empty topic, besides its name of 1 byte
	accepted := clients * rounds
	broker.expectCounts(broker.Log, counts{accepted + 1, accepted,
		3*accepted + 1, 3*accepted + 1, 0, 2 * (overhead + 1), 256 << 20, 2})
	broker.stop()
}

// isClosed reports whether a channel on which nothing is sent is closed.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}

// While nobody reads the log pipe, the broker keeps the counts that it was asked for. It writes
// them as soon as the pipe is read.
func TestCountsInAStuckPipe(t *testing.T) {
	t.Parallel()
	broker, log := startInPipe(t, "-interval", "10ms", "-timeout", "100ms", "-max-queued", "100000")
	accepted := broker.fill(bustest.Payload("t", strings.Repeat("x", 1000)))
	broker.Signal(syscall.SIGUSR1)
	ended := make(chan struct{})
	go func() {
		log.readRest(t, 4096, 0)
		close(ended)
	}()
	var got []counts
	bustest.Until(t, "the counts", func() bool {
		got = allCounts(t, log.String())
		return len(got) == 1
	})
	if got := got[0]; got.payloadsAccepted != accepted || got.payloadsRefused != 1 ||
		got.messagesAccepted != accepted {
		t.Errorf("the counts are %+v, want %d messages accepted and 1 payload refused",
			got, accepted)
	}
	broker.stop()
	<-ended
}

// With -log the broker writes the counts to standard error, even while it can't write its log.
// It does not write them to the log.
func TestCountsOnStandardError(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	log := file(filepath.Join(directory, "log"))
	broker := startLogged(t, brokerCommand("-log", string(log), "-interval", "10ms"), log)
	if got := broker.count(broker.Stderr); got != (counts{maxQueued: 256 << 20}) {
		t.Errorf("after the start the counts are %+v, want 0 for all but maxQueued", got)
	}
	// Without its directory the log can't be opened again.
	if err := os.Rename(directory, directory+".away"); err != nil {
		t.Fatal(err)
	}
	bustest.Until(t, "the failure of the log", func() bool {
		return strings.Contains(broker.Stderr.String(), "Broker: the log fails, retrying")
	})
	broker.Accept(bustest.Payload("t", "1", "2", "3"), 3)
	queued := counts{1, 0, 3, 0, 3, 3*(128+2) + 512 + 1, 256 << 20, 1}
	if got := broker.count(broker.Stderr); got != queued {
		t.Errorf("the counts are %+v, want %+v", got, queued)
	}
	if err := os.Rename(directory+".away", directory); err != nil {
		t.Fatal(err)
	}
	broker.Expect("Received new message from topic 't': '3'")
	broker.expectCounts(broker.Stderr, counts{1, 0, 3, 3, 0, 512 + 1, 256 << 20, 1})
	broker.stop()
	if strings.Contains(log.String(), "Broker: up ") {
		t.Errorf("the log has counts:\n%s", log)
	}
}
