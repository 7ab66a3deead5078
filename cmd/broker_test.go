//go:build unix

package cmd_test

import (
	"fmt"
	"regexp"
	"strings"
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
