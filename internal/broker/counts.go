package broker

import (
	"fmt"
	"time"
)

// LogCounts writes one line: how long the broker has been up, how many payloads and messages
// it has had, and how much is queued. With config.LogFile it writes the line to config.Log,
// otherwise to the log. Any goroutine may call it at any time.
func (broker *Broker) LogCounts() {
	broker.state.Lock()
	state := &broker.state
	line := fmt.Sprintf("Broker: up %s, payloads %d accepted %d refused, "+
		"messages %d accepted %d written %d queued, %d of %d bytes queued, %d topics",
		time.Since(broker.begin).Round(time.Second),
		state.payloadsAccepted, state.payloadsRefused, state.messagesAccepted,
		state.messagesAccepted-state.queuedMessages, state.queuedMessages,
		state.accountedBytes, broker.config.MaxQueued, len(broker.topics))
	broker.state.Unlock()
	if broker.store != nil {
		broker.complain(line)
	} else {
		broker.notify(line)
	}
}
