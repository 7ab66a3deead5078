package broker

import (
	"fmt"
	"time"
)

// LogCounts writes one line: how long the broker has been up, how many payloads and messages
// it has had, and how much is queued. With config.LogFile it writes the line to config.Log,
// otherwise to the log. Any goroutine may call it at any time.
func (broker *Broker) LogCounts() {
	q := &broker.queues
	q.mutex.Lock()
	line := fmt.Sprintf("Broker: up %s, payloads %d accepted %d refused, "+
		"messages %d accepted %d written %d queued, %d of %d bytes queued, %d topics",
		time.Since(broker.begin).Round(time.Second),
		q.payloadsAccepted, q.payloadsRefused, q.accepted, q.written, q.accepted-q.written,
		q.bytes, q.limit, len(q.topics))
	q.mutex.Unlock()
	if broker.config.LogFile != "" {
		broker.drainer.stderr.complain(line)
	} else {
		broker.notify(line)
	}
}
