package broker

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// counted returns the last line of counts in a log, without its time and its uptime.
func counted(t *testing.T, text string) string {
	t.Helper()
	found := regexp.MustCompile(`Broker: up [0-9hms]+, (.*)\n`).FindAllStringSubmatch(text, -1)
	if found == nil {
		t.Fatalf("no counts in\n%s", text)
	}
	return found[len(found)-1][1]
}

// The counts are those of the payloads and messages that were sent.
func TestCounts(t *testing.T) {
	bus := start(t, nil)
	expect := func(format string, values ...any) {
		t.Helper()
		want := fmt.Sprintf(format, values...) +
			fmt.Sprintf(" of %d bytes queued", bus.config.MaxQueued)
		lines := func() int { return strings.Count(bus.Log.String(), "Broker: up ") }
		before := lines()
		bus.LogCounts()
		bustest.Until(t, "the counts", func() bool { return lines() > before })
		if got := counted(t, bus.Log.String()); !strings.HasPrefix(got, want) {
			t.Errorf("the counts are %q, want %q", got, want)
		}
	}
	expect("payloads 0 accepted 0 refused, messages 0 accepted 0 written 0 queued, 0")
	bus.Accept("", 0)
	bus.Accept("\x90", 0)
	bus.Accept(bustest.Payload("t", "1", "2", "3"), 3)
	bus.Accept(bustest.Payload("u", "4"), 1)
	bus.Refuse("\xc0", "message 1: is nil, must be a map of Topic and Data")
	hangsUp := bus.Dial()
	hangsUp.Put(bustest.Payload("t", "5"))
	hangsUp.Close()
	bus.Accept("", 0) // the broker has served hangsUp
	want := 5*(messageOverhead+2) + 2*(topicOverhead+1)
	expect("payloads 3 accepted 1 refused, messages 5 accepted 0 written 5 queued, %d", want)
	if got := counted(t, bus.Log.String()); !strings.HasSuffix(got, ", 2 topics") {
		t.Errorf("the counts are %q", got)
	}
	bus.Close()
	bus.LogCounts() // does nothing after the end
}

// A broker whose log is a file of its own writes its counts to standard error, even while it
// does not write the log.
func TestCountsOfAStore(t *testing.T) {
	stderr := &bustest.Record{}
	bus := listen(t, func(config *BrokerConfig) {
		config.Log, config.LogFile = stderr, filepath.Join(t.TempDir(), "log")
	})
	defer bus.Close()
	if err := bus.enqueue([]*apiv1.Message{{Topic: "t"}, {Topic: "t"}}, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"payloads 1 accepted 0 refused, messages 2 accepted 0 written 2 queued, 771 of ",
		"payloads 1 accepted 0 refused, messages 2 accepted 2 written 0 queued, 513 of ",
	} {
		bus.LogCounts()
		bustest.Until(t, "the counts", func() bool {
			return strings.Contains(stderr.String(), want)
		})
		if err := bus.Drain(); err != nil {
			t.Fatal(err)
		}
	}
}

// The log has a line with the reason when a stop begins, and its last line reports the end.
func TestStopIsLogged(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	bus.Accept(bustest.Payload("t", "1"), 1)
	bus.Stop("SIGTERM")
	got := bustest.Lines(t, bus.Log.String())
	at := 0
	for i, line := range []string{
		"Broker: stopping: SIGTERM",
		"Received new message from topic 't': '1'",
		"Broker: stopped",
	} {
		for at < len(got) && got[at] != line {
			at++
		}
		if at == len(got) {
			t.Errorf("line %d, %s, is missing or out of order in\n%s",
				i, line, strings.Join(got, "\n"))
		}
	}
	if at != len(got)-1 {
		t.Errorf("there are lines after the last in\n%s", strings.Join(got, "\n"))
	}
}
