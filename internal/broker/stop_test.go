package broker

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/bustest"
)

// The log has a line with the reason when a stop begins, and its last line reports the end.
func TestStopIsLogged(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	broker.Accept(bustest.Payload("t", "1"), 1)
	broker.Stop("SIGTERM")
	got := bustest.Lines(t, broker.Log.String())
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

// A broker that stops does not give up while it formats a long line.
func TestStopWhileALineIsFormatted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := listen(t, func(config *BrokerConfig) { config.Timeout = time.Second })
		defer broker.Close()
		drainer := &broker.drainer
		drainer.formatting.Store(true)
		result := make(chan error, 1)
		go func() {
			time.Sleep(9500 * time.Millisecond)
			drainer.formatting.Store(false)
			result <- nil
		}()
		if err := drainer.awaitEnd(result); err != nil {
			t.Error(err)
		}
	})
	broker := listen(t, func(config *BrokerConfig) { config.MaxQueued = 1 << 30 })
	defer broker.Close()
	var seen, ended atomic.Bool
	go func() {
		for !ended.Load() {
			if broker.drainer.formatting.Load() {
				seen.Store(true)
			}
		}
	}()
	defer ended.Store(true)
	for try := 0; try < 100 && !seen.Load(); try++ {
		queueTexts(t, broker.Broker, "t", strings.Repeat("\x01", 1<<20))
		if err := broker.Drain(); err != nil {
			t.Fatal(err)
		}
	}
	if !seen.Load() || broker.drainer.formatting.Load() {
		t.Error("the drainer does not say that it formats a line, or does not stop saying so")
	}
}
