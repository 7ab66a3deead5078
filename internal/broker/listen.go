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
// for at most graceTime.
func (broker *Broker) serve() {
	defer broker.listener.Close()
	var end time.Time // until when a broker that stops serves
	var pause time.Duration
	for looks := 0; looks < emptyLooks && (end.IsZero() || time.Since(end) < graceTime); {
		allowed, stopping := broker.config.Timeout, isClosed(broker.stopping)
		if stopping {
			if end.IsZero() {
				end = time.Now().Add(graceTime)
			}
			allowed = min(allowed, time.Until(end))
			broker.listener.SetDeadline(time.Now().Add(backlogTime))
		}
		broker.places <- struct{}{} // may wait until a reply is sent
		connection, err := broker.listener.Accept()
		switch {
		case err == nil:
			looks, pause = 0, 0
			if broker.serveConnection(connection, allowed, stopping) {
				continue // the reply keeps the place
			}
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && stopping:
			looks++
		case errors.Is(err, os.ErrDeadlineExceeded): // stopAccepting has set the deadline
			<-broker.stopping
		default: // out of descriptors or memory
			pause = broker.retryLater(pause, err)
		}
		<-broker.places
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
	case <-broker.stopping:
		time.Sleep(minBackoff)
	}
	return pause
}

// stopAccepting makes serve return soon.
func (broker *Broker) stopAccepting() {
	broker.stop.Do(func() {
		broker.listener.Refuse()
		// The deadline wakes the loop. It is set first: once stopping is
		// closed, only the loop sets deadlines.
		broker.listener.SetDeadline(time.Now())
		close(broker.stopping)
	})
}
