package broker

import (
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

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
