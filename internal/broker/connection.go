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
	// After a refusal the broker discards input, so that a producer that is still sending
	// can read the refusal. maxDiscarded bounds that input, in bytes.
	maxDiscarded = 4 << 20

	// discardTime is how long the broker waits for more input to discard.
	discardTime = 100 * time.Millisecond

	// keptInput is the largest size of the loop's buffer for payloads, in bytes.
	keptInput = 1 << 20
)

// serveConnection serves one producer, start to end. allowed is the time limit for reading the
// payload, waiting for room and draining together. stopping changes the reason with which a
// payload that did not end in time is refused.
func (broker *Broker) serveConnection(
	connection *net.TCPConn, allowed time.Duration, stopping bool,
) {
	defer connection.Close()
	deadline := time.Now().Add(allowed)
	connection.SetReadDeadline(deadline)
	messages, err := broker.readMessages(connection)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf(apiv1.NoEnd+"%s: half-close after the last byte", broker.config.Timeout)
		if stopping {
			err = errors.New(apiv1.Stopping)
		}
	}
	if err == nil {
		err = broker.enqueue(messages, deadline)
	}
	switch {
	case err != nil:
		broker.refuse(connection, err)
	case broker.config.Interval == 0 && len(messages) > 0 && !broker.awaitWritten(deadline):
		broker.notify(fmt.Sprintf("no reply to %s: "+
			"its messages are queued, but were not written in time", connection.RemoteAddr()))
	default:
		broker.reply(connection, &apiv1.Reply{Accepted: len(messages)})
	}
}

// refuse writes the reason of a refusal to the log and replies with it. Then it discards the
// unread input.
func (broker *Broker) refuse(connection *net.TCPConn, reason error) {
	broker.queues.refuse(fmt.Sprintf("refused payload from %s: %v", connection.RemoteAddr(), reason))
	broker.reply(connection, &apiv1.Reply{Error: reason.Error()})
	connection.CloseWrite()
	// Closing with unread input would reset the connection before the producer has read
	// the reply.
	end := time.Now().Add(graceTime)
	for discarded := 0; discarded < maxDiscarded; {
		connection.SetReadDeadline(time.Now().Add(min(discardTime, time.Until(end))))
		count, err := connection.Read(broker.input)
		if err != nil {
			return
		}
		discarded += count
	}
}

// reply sends reply. It ignores errors: the producer may have closed without reading a reply.
func (broker *Broker) reply(connection *net.TCPConn, reply *apiv1.Reply) {
	encoded, err := broker.encoder.EncodeReply(reply)
	if err == nil {
		connection.SetWriteDeadline(time.Now().Add(graceTime))
		connection.Write(encoded)
	}
}

// readMessages reads until the producer's half-close and decodes what it read. It
// reads into the loop's own buffer, or into a larger one if the payload does not fit.
func (broker *Broker) readMessages(connection *net.TCPConn) ([]*apiv1.Message, error) {
	limit := broker.config.MaxPayload
	input, length := broker.input, 0
	for {
		count, err := connection.Read(input[length:])
		if length == 0 && count > 0 {
			if err := broker.decoder.CheckFirst(input[0]); err != nil {
				return nil, err
			}
		}
		length += count
		switch {
		case length > limit:
			return nil, fmt.Errorf(apiv1.TooLarge+"more than %d bytes (-max-payload)", limit)
		case err == io.EOF:
			return broker.decoder.Decode(bytes.Clone(input[:length]))
		case length == 0 && errors.Is(err, syscall.ECONNRESET): // a port probe
			return nil, nil
		case err != nil: // errors.Unwrap leaves out the addresses
			return nil, fmt.Errorf(apiv1.Broke+"%w", errors.Unwrap(err))
		case length == len(input):
			input = append(make([]byte, 0, min(4*length-1, limit)+1), input...)
			input = input[:cap(input)]
		}
	}
}
