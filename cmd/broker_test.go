//go:build unix

package cmd_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
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
` + stamp + `Broker: stopping: SIGTERM
` + stamp + `Broker: stopped
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
