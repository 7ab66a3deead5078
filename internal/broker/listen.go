package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	// backlogTime is how long a broker that stops waits for another connection.
	backlogTime = 10 * time.Millisecond

	// No connection is left after emptyLooks waits without one. A single wait is not
	// enough: if this goroutine is stalled, the wait is over before Accept asks the
	// kernel. stopAccepting ends one of them early.
	emptyLooks = 4

	// After each Accept that fails, the pause doubles, from minBackoff to maxBackoff.
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// serve is the loop. It accepts and serves one connection after the other until stopping is
// closed. Then it serves those that are waiting. After graceTime it refuses those that are left,
// for at most graceTime. While no place for a reply is free, it accepts only what it refuses.
func (b *Broker) serve() {
	defer b.listener.Close()
	var end time.Time // until when a broker that stops serves
	var pause time.Duration
	for looks := 0; looks < emptyLooks && (end.IsZero() || time.Since(end) < graceTime); {
		allowed, stopping := b.config.Timeout, b.stopping.Err() != nil
		if stopping && end.IsZero() {
			end = time.Now().Add(graceTime)
		}
		if stopping {
			allowed = min(allowed, time.Until(end))
		}
		if allowed > 0 && !b.awaitPlace(allowed) {
			continue
		}
		if stopping {
			b.listener.SetDeadline(time.Now().Add(backlogTime))
		}
		connection, err := b.listener.Accept()
		switch {
		case err == nil:
			looks, pause = 0, 0
			b.serveConnection(connection, allowed)
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // the broker stops
			looks++
		default: // out of descriptors or memory
			pause = b.retryLater(pause, err)
		}
	}
}

// retryLater waits after an error of Accept, longer than the pause before. It returns the new
// pause, after which there is a line in the log if it is the first.
func (b *Broker) retryLater(pause time.Duration, err error) time.Duration {
	if pause == 0 {
		b.notify(fmt.Sprintf("Broker: can't accept connections, retrying: %v", err))
	}
	pause = min(max(2*pause, minBackoff), maxBackoff)
	select {
	case <-time.After(pause):
	case <-b.stopping.Done():
		time.Sleep(minBackoff)
	}
	return pause
}

// stopAccepting makes serve return soon. A second call at the same time does no harm: it may end one
// more of the waits for a connection early.
func (b *Broker) stopAccepting() {
	if b.stopping.Err() != nil {
		return
	}
	b.listener.Refuse()
	b.stop()
	b.listener.SetDeadline(time.Now()) // wakes the loop
	b.freed.send()
}
