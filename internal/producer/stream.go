package producer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/encoder"
)

const (
	// maxMessage is how long a message out of a stream can be, in bytes. The
	// broker's own limits are lower unless they were raised.
	maxMessage = 256 << 20

	// A payload of several messages has at most maxPayload bytes. Messages
	// that come to fullPayload wait for no others, which might not fit in.
	maxPayload  = 1 << 20
	fullPayload = maxPayload / 8 * 7

	// maxWait is how long a message waits for others before it is sent.
	maxWait = 100 * time.Millisecond

	// Input is read into blocks of blockSize bytes and more, and into a new one
	// where less than minRead are left.
	blockSize = 64 << 10
	minRead   = 4 << 10
)

// SendAll sends all of input, up to 256 MiB, as one message on topic. See Send
// for the error, which may also be that of reading.
//
// An input without a byte is an error unless it is a regular file: it is what a failed
// command leaves at the other end of a pipe.
func (producer *Producer) SendAll(ctx context.Context, topic string, input io.Reader) error {
	return producer.sendStream(ctx, &stream{topic: topic, input: input, whole: true}, func(int, int) {})
}

// SendLines sends each line of input, up to 256 MiB, as a message on topic, in
// order: what stands before each line feed, and after the last one if there is
// anything. Lines travel in payloads of up to 1 MiB, which go when they are full
// or the first line has waited for 100 ms, and the payload before is answered; a
// longer line has a payload of its own, and what is too large for the broker, or
// for a slow link and the broker's time-out, is halved until it is one line. Reading goes on while a payload is in flight, but
// stays within 2 MiB of it, or a line.
//
// After each payload SendLines calls accepted with the number of its messages and
// of the bytes of input that they were, with a line feed for each. The error tells which line is the first
// that was not accepted or of which that is unknown; all before it were. See also
// Send.
//
// The end of ctx ends SendLines after the payload in flight. When it returns before
// the end of input, another Read of input may be under way.
func (producer *Producer) SendLines(ctx context.Context, topic string, input io.Reader, accepted func(messages, bytes int)) error {
	return producer.sendStream(ctx, &stream{topic: topic, input: input}, accepted)
}

// sendStream is SendAll and SendLines.
func (producer *Producer) sendStream(
	ctx context.Context, stream *stream, accepted func(messages, bytes int),
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := payloadLimit{current: maxPayload, ceiling: maxPayload}
	line := 1 // the first that is not accepted yet
	batches, ended := stream.start(ctx)
	for batch := range batches {
		for len(batch) > 0 {
			count, err := producer.sendPart(ctx, batch, &limit)
			if err != nil {
				return stream.failure(line, count, err)
			}
			read := count // the line feeds
			for _, message := range batch[:count] {
				read += len(message.Data)
			}
			accepted(count, read)
			line += count
			batch = batch[count:]
		}
	}
	if err := <-ended; err != nil {
		return stream.failure(line, 0, notAccepted(err))
	}
	return nil
}

// sendPart sends as many of the first messages as limit allows, and fewer after a refusal
// for their size. It returns how many it has sent, accepted or not; with an error after
// which nothing can have been accepted, 0.
func (producer *Producer) sendPart(
	ctx context.Context, messages []*apiv1.Message, limit *payloadLimit,
) (int, error) {
	for {
		if ctx.Err() != nil {
			return 0, notAccepted(context.Cause(ctx))
		}
		count, size := fitting(messages, limit.current)
		err := producer.Send(ctx, messages[:count])
		var refusal Refusal
		refused := errors.As(err, &refusal)
		switch {
		case err == nil:
			limit.grow()
			return count, nil
		case count > 1 && apiv1.Splittable(string(refusal)):
			limit.shrink(size, !apiv1.Retryable(string(refusal)))
		case refused || errors.Is(err, ErrUnknown):
			return count, err
		default:
			return 0, err
		}
	}
}

// payloadLimit is how large a payload of several messages may be, in bytes.
type payloadLimit struct {
	current int
	ceiling int // of current's growth; below every size that was refused as too large
}

// shrink halves the limit after a payload of size bytes was refused. It is for good if
// the broker takes no such size; otherwise the payload was too long under way.
func (limit *payloadLimit) shrink(size int, tooLarge bool) {
	limit.current = size / 2
	if tooLarge {
		limit.ceiling = limit.current
	}
}

// grow raises the limit after a payload was accepted. Twelve in a row double it: over
// a link that stays slow, few payloads are sent in vain.
func (limit *payloadLimit) grow() {
	limit.current = min(limit.current+limit.current/16+1, limit.ceiling)
}

// fitting returns how many of the first messages a payload of limit bytes takes,
// but at least one, and the payload's size in bytes, at most.
func fitting(messages []*apiv1.Message, limit int) (count, size int) {
	size = encoder.PayloadFraming
	for _, message := range messages {
		more := encoder.MessageSize(message)
		if count > 0 && size+more > limit {
			break
		}
		count++
		size += more
	}
	return count, size
}

// stream makes messages of an input. One goroutine reads it and cuts it into
// messages, another collects these until they are enough for a payload or have
// waited for long enough, and the sender takes what is collected when it is ready.
type stream struct {
	topic string
	input io.Reader
	whole bool // the input is one message; otherwise each line is
}

// failure returns err with the lines that it is about: count lines from line on,
// or, if count is 0, all.
func (stream *stream) failure(line, count int, err error) error {
	switch {
	case stream.whole:
		return err
	case count == 0:
		return fmt.Errorf("from line %d on: %w", line, err)
	case count == 1:
		return fmt.Errorf("line %d: %w", line, err)
	}
	return fmt.Errorf("lines %d to %d: %w", line, line+count-1, err)
}

// start starts the stream's goroutines, which end with the input or, if no Read
// holds them up, with ctx. All messages come over batches, which is closed after the
// last. Then ended has why there are no more before the input's end, or nil.
func (stream *stream) start(ctx context.Context) (batches <-chan []*apiv1.Message, ended <-chan error) {
	pieces, read := make(chan []*apiv1.Message), make(chan error, 1)
	collected, result := make(chan []*apiv1.Message), make(chan error, 1)
	go func() {
		defer close(pieces)
		read <- stream.read(ctx, pieces)
	}()
	go func() {
		defer close(collected)
		err := collect(ctx, pieces, collected)
		if err == nil {
			err = <-read
		}
		result <- err
	}()
	return collected, result
}

// read reads the input to its end and hands over the messages that it finds.
func (stream *stream) read(ctx context.Context, pieces chan<- []*apiv1.Message) error {
	var message []byte // what has come of the message in hand, with room behind it
	for {
		message = withRoom(message)
		length := len(message)
		// No more at once than an ordinary block: it may be all line feeds.
		count, err := stream.input.Read(message[length:min(cap(message), length+blockSize)])
		message = message[:length+count]
		if err == io.EOF && stream.whole && len(message) == 0 && !isRegular(stream.input) {
			return errors.New("the input is empty: to send an empty message, use -message ''")
		}
		var piece []*apiv1.Message
		piece, message = stream.cut(message, length, err == io.EOF)
		if len(piece) > 0 {
			select {
			case pieces <- piece:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case len(message) > maxMessage:
			return fmt.Errorf("the message is longer than %d bytes", maxMessage)
		}
	}
}

// withRoom returns message with room for at least minRead bytes more, copied if need be.
// What is before it in its block belongs to other messages.
func withRoom(message []byte) []byte {
	if cap(message)-len(message) >= minRead {
		return message
	}
	size := max(blockSize, min(3*len(message), maxMessage+blockSize))
	return append(make([]byte, 0, size), message...)
}

// cut cuts the messages off data whose end is in it, and returns them and the rest. No
// message ends in the first old bytes. At the input's end the rest is a message too.
func (stream *stream) cut(data []byte, old int, end bool) (messages []*apiv1.Message, rest []byte) {
	lines := 0
	if !stream.whole {
		lines = bytes.Count(data[old:], []byte{'\n'})
	}
	block := make([]apiv1.Message, 0, lines+1)
	rest = data
	for range lines {
		length := bytes.IndexByte(rest, '\n')
		block = append(block, apiv1.Message{Topic: stream.topic, Data: rest[:length]})
		rest = rest[length+1:]
	}
	if end && (stream.whole || len(rest) > 0) {
		block = append(block, apiv1.Message{Topic: stream.topic, Data: rest})
	}
	messages = make([]*apiv1.Message, len(block))
	for i := range block {
		messages[i] = &block[i]
	}
	return messages, rest
}

// isRegular reports whether input is a regular file.
func isRegular(input io.Reader) bool {
	file, ok := input.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}

// collect gathers pieces and hands over what it has when that is enough for a
// payload, has waited for maxWait, or is the last. Meanwhile it goes on gathering,
// up to a payload. It returns nil if it has handed over all that came, or why not.
func collect(ctx context.Context, pieces <-chan []*apiv1.Message, batches chan<- []*apiv1.Message) error {
	var batch []*apiv1.Message
	var size int
	var due <-chan time.Time // when the first message of the batch has waited for long enough
	var waited bool          // it has
	for pieces != nil || len(batch) > 0 {
		full, last := size >= fullPayload, pieces == nil
		in, out := pieces, batches
		if full {
			in = nil // nothing is received from a nil channel, or sent
		}
		if len(batch) == 0 || !full && !last && !waited {
			out = nil
		}
		select {
		case piece, open := <-in:
			if !open {
				pieces = nil
				continue
			}
			if len(batch) == 0 {
				due, waited = time.After(maxWait), false
			}
			batch = append(batch, piece...)
			for _, message := range piece {
				size += encoder.MessageSize(message)
			}
		case <-due:
			waited = true
		case out <- batch:
			batch, size = nil, 0
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
