package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	// backlogTime is how long a broker that stops waits in Accept for another connection.
	backlogTime = 10 * time.Millisecond

	// emptyWaits is how many such waits in a row without a connection mean that none is left. A
	// single one is not enough: if this goroutine is stalled, the wait is over before Accept
	// asks the kernel. stopAccepting ends one of them early.
	emptyWaits = 4

	// After each Accept that fails, the pause doubles, from minBackoff to maxBackoff.
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// serve is the loop. It accepts and serves one connection after the other. When the broker stops,
// it serves those that are waiting, for graceTime. Then it refuses those that are left, for at most
// as long. Before it accepts a connection, it waits until there is a place for a reply, unless it
// will refuse the connection.
func (b *Broker) serve() {
	defer b.listener.Close()
	var end time.Time       // when a broker that stops begins to refuse
	var pause time.Duration // after the last error of Accept
	for waits := 0; waits < emptyWaits && (end.IsZero() || time.Since(end) < graceTime); {
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
			waits, pause = 0, 0
			b.serveConnection(connection, allowed)
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // the broker stops
			waits++
		default: // out of descriptors or memory
			pause = b.retryLater(pause, err)
		}
	}
}

// retryLater waits after err, an error of Accept, and returns how long. pause is how long it waited
// after the error before, or 0 if err is the first in a row, which has a line in the log. The wait
// is longer than pause, up to maxBackoff. When the broker stops, it ends soon.
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

// stopAccepting makes serve return soon. Two calls at the same time do no harm: the second may end
// one more wait for a connection early.
func (b *Broker) stopAccepting() {
	if b.stopping.Err() != nil {
		return
	}
	b.listener.Refuse()
	b.stop()
	b.listener.SetDeadline(time.Now()) // ends the loop's wait in Accept
	b.freed.send()                     // ends its wait for a place
}
