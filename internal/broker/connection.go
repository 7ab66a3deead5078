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
	"mbus/internal/broker/listener"
)

const (
	// maxDiscarded is about how many bytes of input the broker discards after a refusal. It
	// discards input so that a producer that is still sending can read the refusal.
	maxDiscarded = 4 << 20

	// discardTime is how long the broker waits for more input to discard.
	discardTime = 100 * time.Millisecond

	// minInput is the smallest size of the loop's buffer for payloads, in bytes, unless MaxPayload
	// is smaller. The buffer grows for a larger payload. It shrinks after a payload that is smaller
	// than this.
	minInput = 1 << 20
)

// serveConnection serves one producer to the end, or leaves its reply to the ticker goroutine.
// allowed is the time limit for reading the payload, waiting for room and draining together. It is
// config.Timeout, and less only if the broker stops.
func (b *Broker) serveConnection(connection net.Conn, allowed time.Duration) {
	deadline := time.Now().Add(allowed)
	connection.SetReadDeadline(deadline)
	messages, err := b.readMessages(connection)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf(apiv1.NoEnd+"%s: half-close after the last byte", b.config.Timeout)
		if allowed < b.config.Timeout {
			err = errors.New(apiv1.Stopping)
		}
	}
	reply := b.encode(&apiv1.Reply{Accepted: len(messages)})
	var waiting *waitingReply
	if b.config.Interval == 0 && len(messages) > 0 {
		waiting = &waitingReply{connection: connection, reply: reply}
	}
	if err == nil {
		err = b.enqueue(messages, deadline, waiting)
	}
	switch {
	case err != nil:
		b.refuse(connection, err)
	case waiting == nil:
		send(connection, reply)
	default:
		return
	}
	connection.Close()
}

// refuse refuses a payload: the reason is in a line of the log and in the reply. Then it discards
// input for at most graceTime.
func (b *Broker) refuse(connection net.Conn, reason error) {
	peer := listener.PeerName(connection)
	b.mutex.Lock()
	b.payloadsRefused++
	b.mutex.Unlock()
	b.notify(fmt.Sprintf("refused payload from %s: %v", peer, reason))
	send(connection, b.encode(&apiv1.Reply{Error: reason.Error()}))
	connection.(listener.Conn).CloseWrite()
	// Closing with unread input would reset the connection before the producer has read
	// the reply.
	end := time.Now().Add(graceTime)
	for discarded := 0; discarded < maxDiscarded; {
		connection.SetReadDeadline(time.Now().Add(min(discardTime, time.Until(end))))
		count, err := connection.Read(b.input)
		if err != nil {
			return
		}
		discarded += count
	}
}

// encode returns the bytes of reply. The encoder's error is always nil.
func (b *Broker) encode(reply *apiv1.Reply) []byte {
	encoded, _ := b.encoder.EncodeReply(reply)
	return encoded
}

// readMessages reads a payload until the producer's half-close, and decodes it. It reads into the
// loop's buffer and decodes a copy of the payload's size, because the messages keep the memory that
// they were decoded from. To read into new memory each time would cost more than the copy.
func (b *Broker) readMessages(connection net.Conn) ([]*apiv1.Message, error) {
	limit, length := b.config.MaxPayload, 0
	for {
		count, err := connection.Read(b.input[length:])
		if length == 0 && count > 0 {
			if err := b.decoder.CheckFirst(b.input[0]); err != nil {
				return nil, err
			}
		}
		length += count
		switch {
		case length > limit:
			return nil, fmt.Errorf(apiv1.TooLarge+"more than %d bytes (-max-payload)", limit)
		case err == io.EOF:
			payload := bytes.Clone(b.input[:length])
			if length < minInput && len(b.input) > minInput {
				b.input = make([]byte, minInput)
			}
			return b.decoder.Decode(payload)
		case length == 0 && errors.Is(err, syscall.ECONNRESET): // a port probe
			return nil, nil
		case err != nil: // errors.Unwrap leaves out the addresses
			return nil, fmt.Errorf(apiv1.Broke+"%w", errors.Unwrap(err))
		case length == len(b.input):
			grown := make([]byte, min(4*length-1, limit)+1)
			copy(grown, b.input)
			b.input = grown
		}
	}
}
