//go:build unix

package cmd_test

import (
	"fmt"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// A user sees a broker, a producer, and the log, line for line.
func TestTranscript(t *testing.T) {
	broker := startBroker(t)
	begin := time.Now()
	status, stderr := broker.produce("orders", "look ma! a new order")
	if status != 0 || stderr != "" {
		t.Errorf("status %d: %s", status, stderr)
	}
	broker.Expect("new message dispatched on topic orders")
	text := broker.Log.String()
	if time.Since(begin) < 2*time.Second && strings.Contains(text, "Received") {
		t.Error("drained before the first interval was over")
	}
	broker.Expect("Received new message from topic 'orders': 'look ma! a new order'")
	broker.stop()
	const stamp = `\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `
	want := `^` + stamp + `Broker: start listening for incoming producer messages\.\.\.
` + stamp + `Broker: listening on 127\.0\.0\.1:\d+
` + stamp + `creating topic orders
` + stamp + `new message dispatched on topic orders
` + stamp + `Received new message from topic 'orders': 'look ma! a new order'
$`
	if got := broker.Log.String(); !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("the log is\n%s", got)
	}
}

// What keeps a broker from starting is one line, and status 1.
func TestBrokerCannotStart(t *testing.T) {
	broker := startBroker(t)
	taken := fmt.Sprintf("broker: listen tcp %s: bind: address already in use\n", broker.Address)
	expect(t, 1, taken, "broker", "-pport", broker.port)
	status, _, stderr := run(t, "broker", "-phost", "no-such-host.invalid")
	if status != 1 || strings.Count(stderr, "\n") != 1 ||
		!strings.HasPrefix(stderr, "broker: listen tcp: lookup no-such-host.invalid") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// The first signal drains and ends with status 0.
func TestSignals(t *testing.T) {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}
	if signal.Ignored(syscall.SIGHUP) {
		t.Log("not tried with SIGHUP, which is ignored here, as nohup has it")
	} else {
		signals = append(signals, syscall.SIGHUP)
	}
	for _, stop := range signals {
		broker := startBroker(t, "-interval", "1h")
		if status, stderr := broker.produce("t", stop.String()); status != 0 {
			t.Errorf("status %d: %s", status, stderr)
		}
		broker.signal(stop)
		if status := broker.wait(); status != 0 {
			t.Errorf("%v: status %d", stop, status)
		}
		want := "Received new message from topic 't': '" + stop.String() + "'\n"
		if !strings.HasSuffix(broker.Log.String(), want) {
			t.Errorf("%v: the log is\n%s", stop, broker.Log)
		}
	}
}

// A second signal does not wait for anybody.
func TestSecondSignal(t *testing.T) {
	broker := startBroker(t, "-timeout", "1h")
	broker.Dial().Put("\x82") // keeps the broker from stopping at once
	bustest.Until(t, "the signal's effect", func() bool {
		// The broker may not have accepted the client before the first signal,
		// and then closes without it.
		broker.signal(syscall.SIGTERM)
		select {
		case <-broker.ended:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	if status := broker.wait(); status != 1 {
		t.Errorf("status %d", status)
	}
}

// A terminal that is closed sends SIGHUP twice, which is no second signal.
func TestHangup(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored here, as nohup has it")
	}
	broker := startBroker(t, "-interval", "1h", "-timeout", "1s")
	if status, stderr := broker.produce("t", "1"); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	broker.Dial().Put("\x82") // keeps the broker from stopping at once
	broker.signal(syscall.SIGHUP)
	time.Sleep(50 * time.Millisecond) // two that are pending at once are one
	broker.signal(syscall.SIGHUP)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	if !strings.HasSuffix(broker.Log.String(), "Received new message from topic 't': '1'\n") {
		t.Errorf("the log is\n%s", broker.Log)
	}
}

// With SIGHUP ignored, as by nohup, the broker goes on after it.
func TestNohup(t *testing.T) {
	path := filepath.Join(binaries, "broker")
	broker := startCommand(t, exec.Command("sh", "-c", `trap "" HUP; exec "$0" -pport 0`, path))
	broker.signal(syscall.SIGHUP)
	if status, stderr := broker.produce("t", "1"); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	broker.stop()
}
