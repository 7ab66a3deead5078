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
// closed, and then the connections that are waiting.
func (broker *Broker) serve() {
	defer broker.listener.Close()
	var pause time.Duration
	for !isClosed(broker.stopping) {
		connection, err := broker.listener.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			broker.serveConnection(connection, broker.config.Timeout, false)
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // stopAccepting has set the deadline
			<-broker.stopping
		default: // out of descriptors or memory: retry
			if pause == 0 {
				broker.notify(fmt.Sprintf("Broker: can't accept connections, retrying: %v", err))
			}
			pause = min(max(2*pause, minBackoff), maxBackoff)
			select {
			case <-time.After(pause):
			case <-broker.stopping:
			}
		}
	}
	broker.serveBacklog()
}

// serveBacklog serves the connections that are waiting when the broker stops. After graceTime
// it refuses those that are left, for at most graceTime.
func (broker *Broker) serveBacklog() {
	end := time.Now().Add(graceTime)
	for looks := 0; looks < emptyLooks && time.Since(end) < graceTime; {
		broker.listener.SetDeadline(time.Now().Add(backlogTime))
		connection, err := broker.listener.AcceptTCP()
		switch {
		case err == nil:
			looks = 0
			broker.serveConnection(connection, min(broker.config.Timeout, time.Until(end)), true)
		case errors.Is(err, os.ErrDeadlineExceeded):
			looks++
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors or memory: retry
			time.Sleep(minBackoff)
		}
	}
}

// stopAccepting makes serve return soon.
func (broker *Broker) stopAccepting() {
	broker.stop.Do(func() {
		refuseConnections(broker.listener)
		// The deadline wakes the loop. It is set first: once stopping is
		// closed, only the loop sets deadlines.
		broker.listener.SetDeadline(time.Now())
		close(broker.stopping)
	})
}
