package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"mbus/internal/apiv1"
)

const (
	// graceTime bounds what follows a connection's deadline: the reply and the
	// discarding of unread input. It is also how long a broker that stops goes
	// on serving those who wait already.
	graceTime = time.Second

	// maxDiscarded is how much unread input is discarded, in bytes, so that a
	// producer that is still sending gets to read its refusal.
	maxDiscarded = 4 << 20

	// A payload is read into the loop's own buffer of minInput bytes and copied
	// out of it. After one that was larger, the next is read into a buffer that
	// such a one just fits, of maxExpected bytes at the most, and stays there.
	minInput    = 64 << 10
	maxExpected = 1 << 20

	// While it stops, the loop waits backlogTime for a connection to come, and
	// for one that it has no time for to go. While it has no descriptor for a connection it
	// waits from minBackoff to maxBackoff.
	backlogTime = 10 * time.Millisecond
	minBackoff  = 5 * time.Millisecond
	maxBackoff  = time.Second
)

// errStopping refuses those whom a broker that stops has no time for.
var errStopping = errors.New(apiv1.Stopping)

// serve is the loop. It accepts and serves one connection after the other. When
// stopping is closed it serves those that wait already for graceTime, refuses
// what is left of them for as long at the most, and returns.
func (broker *Broker) serve() {
	defer broker.listener.Close()
	var last time.Time // until when a broker that stops serves
	var backoff time.Duration
	idle := 0
	for {
		stopping := closed(broker.stopping)
		if stopping {
			if last.IsZero() {
				last = time.Now().Add(graceTime)
			}
			if time.Since(last) > graceTime {
				return
			}
			broker.listener.SetDeadline(time.Now().Add(backlogTime))
		}
		connection, err := broker.listener.AcceptTCP()
		switch {
		case err == nil:
			backoff, idle = 0, 0
			allowed := broker.config.Timeout
			if stopping {
				allowed = min(allowed, time.Until(last))
			}
			broker.serveConnection(connection, allowed)
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !stopping {
				continue // stopAccepting has set the deadline, and is about to close stopping
			}
			// Where this goroutine was kept waiting, the deadline may have
			// passed before anybody looked whether a connection waits.
			if idle++; idle == 3 {
				return
			}
		default: // for want of descriptors or memory, which may pass
			if backoff == 0 {
				broker.notify(fmt.Sprintf("Broker: can't accept connections, trying on: %v", err))
			}
			backoff = min(max(2*backoff, minBackoff), maxBackoff)
			if stopping {
				time.Sleep(minBackoff)
				continue
			}
			select {
			case <-time.After(backoff):
			case <-broker.stopping:
			}
		}
	}
}

// stopAccepting makes serve return soon.
func (broker *Broker) stopAccepting() {
	broker.stop.Do(func() {
		refuseConnections(broker.listener)
		// The deadline wakes the loop. It comes first: once stopping is
		// closed, deadlines are the loop's.
		broker.listener.SetDeadline(time.Now())
		close(broker.stopping)
	})
}

// serveConnection serves one producer, start to end. Reading its payload, waiting
// for room and draining may take the allowed time altogether.
func (broker *Broker) serveConnection(connection *net.TCPConn, allowed time.Duration) {
	defer connection.Close()
	if allowed <= 0 {
		broker.refuse(connection, errStopping)
		return
	}
	deadline := time.Now().Add(allowed)
	connection.SetReadDeadline(deadline)
	payload, err := broker.readPayload(connection)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf(apiv1.NoEnd+"%s: half-close after the last byte", allowed)
		if allowed < broker.config.Timeout {
			err = errStopping
		}
	}
	var messages []*apiv1.Message
	if err == nil {
		messages, err = broker.decoder.Decode(payload)
	}
	if err == nil {
		err = broker.enqueue(messages, deadline)
	}
	if err != nil {
		broker.refuse(connection, err)
		return
	}
	if broker.config.Interval == 0 && len(messages) > 0 && !broker.await(deadline, func() bool { return broker.queued == 0 }) {
		broker.notify(fmt.Sprintf("no reply to %s: its messages are queued, but were not written in time", connection.RemoteAddr()))
		return
	}
	broker.reply(connection, &apiv1.Reply{Accepted: len(messages)})
}

// refuse tells the producer and the operator why its payload was refused.
func (broker *Broker) refuse(connection *net.TCPConn, why error) {
	broker.notify(fmt.Sprintf("refused payload from %s: %v", connection.RemoteAddr(), why))
	end := time.Now().Add(graceTime)
	connection.SetWriteDeadline(end)
	broker.reply(connection, &apiv1.Reply{Error: why.Error()})
	// Closing with unread input would reset the connection, and the producer
	// would lose the reply.
	connection.CloseWrite()
	if why == errStopping {
		end = time.Now().Add(backlogTime) // there may be many of these
	}
	connection.SetReadDeadline(end)
	io.CopyN(io.Discard, connection, maxDiscarded)
}

// reply sends reply, for which a connection that has sent nothing yet always has
// room. Whether it arrives is not the broker's concern: a producer may have closed
// without waiting for it.
func (broker *Broker) reply(connection *net.TCPConn, reply *apiv1.Reply) {
	encoded, err := broker.encoder.EncodeReply(reply)
	if err == nil {
		connection.Write(encoded)
	}
}

// readPayload reads until the producer's half-close and returns what it read.
func (broker *Broker) readPayload(connection *net.TCPConn) ([]byte, error) {
	limit := broker.config.MaxPayload
	input := broker.input[:0]
	if broker.expected > minInput {
		input = make([]byte, 0, broker.expected)
	}
	var err error
	for err == nil {
		if len(input) == cap(input) {
			larger := make([]byte, len(input), min(4*cap(input), limit)+1)
			copy(larger, input)
			input = larger
		}
		var count int
		count, err = connection.Read(input[len(input):cap(input)])
		input = input[:len(input)+count]
		if len(input) > limit {
			err = fmt.Errorf(apiv1.TooLarge+"more than %d bytes (-max-payload)", limit)
		}
	}
	broker.expected = min(len(input)+len(input)/16+1, maxExpected)
	var broken *net.OpError
	switch {
	case err == io.EOF && cap(input) > minInput && len(input) > cap(input)/8*7:
		return input, nil // a copy would be hardly smaller
	case err == io.EOF, len(input) == 0 && errors.Is(err, syscall.ECONNRESET): // a port probe may hang up hard
		return bytes.Clone(input), nil
	case errors.As(err, &broken):
		return nil, fmt.Errorf(apiv1.Broke+"%w", broken.Err)
	}
	return nil, err
}
