package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	// graceTime is the time limit for the reply, and for discarding unread input. A broker
	// that stops serves the waiting connections for as long.
	graceTime = time.Second

	// backlogTime is how long a broker that stops waits for another connection.
	backlogTime = 10 * time.Millisecond

	// No connection is left after emptyLooks waits without one. A single wait is not
	// enough: if this goroutine is stalled, the wait is over before Accept asks the
	// kernel.
	emptyLooks = 3

	// After each Accept that fails, the pause doubles, from minBackoff to maxBackoff.
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// serve is the loop. It accepts and serves one connection after the other until stopping is
// closed. Then it serves those that are waiting. After graceTime it refuses those that are left,
// for at most graceTime. While no place for a reply is free, it accepts only what it refuses.
func (broker *Broker) serve() {
	defer broker.listener.Close()
	var end time.Time // until when a broker that stops serves
	var pause time.Duration
	for looks := 0; looks < emptyLooks && (end.IsZero() || time.Since(end) < graceTime); {
		allowed, stopping := broker.config.Timeout, broker.stopping.Err() != nil
		if stopping && end.IsZero() {
			end = time.Now().Add(graceTime)
		}
		if stopping {
			allowed = min(allowed, time.Until(end))
		}
		if allowed > 0 && !broker.awaitPlace(allowed) {
			continue
		}
		if stopping {
			broker.listener.SetDeadline(time.Now().Add(backlogTime))
		}
		connection, err := broker.listener.Accept()
		switch {
		case err == nil:
			looks, pause = 0, 0
			broker.serveConnection(connection, allowed, stopping)
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && stopping:
			looks++
		case errors.Is(err, os.ErrDeadlineExceeded): // stopAccepting has set the deadline
			<-broker.stopping.Done()
		default: // out of descriptors or memory
			pause = broker.retryLater(pause, err)
		}
	}
}

// retryLater waits after an error of Accept, longer than the pause before. It returns the new
// pause, after which there is a line in the log if it is the first.
func (broker *Broker) retryLater(pause time.Duration, err error) time.Duration {
	if pause == 0 {
		broker.notify(fmt.Sprintf("Broker: can't accept connections, retrying: %v", err))
	}
	pause = min(max(2*pause, minBackoff), maxBackoff)
	select {
	case <-time.After(pause):
	case <-broker.stopping.Done():
		time.Sleep(minBackoff)
	}
	return pause
}

// stopAccepting makes serve return soon.
func (broker *Broker) stopAccepting() {
	if broker.stopping.Err() != nil {
		return
	}
	broker.listener.Refuse()
	// The deadline wakes the loop. It is set first: once stopping is done, only the loop sets
	// deadlines.
	broker.listener.SetDeadline(time.Now())
	broker.stop()
	wakeUp(broker.freed)
}
