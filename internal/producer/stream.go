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
	// maxMessage is the longest message of a stream, in bytes. A broker accepts that much
	// only if its own limits were raised.
	maxMessage = 256 << 20

	// A payload of several messages has at most maxPayload bytes. Once the messages that
	// were collected take fullPayload bytes, no more are added: they might not fit.
	maxPayload  = 1 << 20
	fullPayload = maxPayload / 8 * 7

	// maxWait is how long a message waits for others before it is sent.
	maxWait = 100 * time.Millisecond

	// Input is read into blocks of at least blockSize bytes. A new block is made when less
	// than minRead bytes are free.
	blockSize = 64 << 10
	minRead   = 4 << 10
)

// SendAll sends all of input, up to 256 MiB, as one message on topic. The error is that of
// Send, or is about reading.
//
// An empty input is an error unless it is a regular file: a pipe is empty when the command
// that should write to it has failed.
func (p *Producer) SendAll(ctx context.Context, topic string, input io.Reader) error {
	whole := &messageStream{topic: topic, input: input, whole: true}
	return p.sendStream(ctx, whole, func(int, int) {})
}

// SendLines sends each line of input, up to 256 MiB, as a message on topic, in order. A line
// ends before a line feed or at the end of input. There is no line after the last line feed.
//
// A payload has as many lines as fit into 1 MiB, or a single longer line. It is sent when it
// is full or its first line has waited for 100 ms, but not before the previous payload was
// answered. Meanwhile SendLines reads ahead, up to 2 MiB or one line. It sends a payload that
// was refused as too large, or because it did not end in time, again in halves.
//
// SendLines calls accepted after each payload, with the number of its messages and the number
// of their bytes of input, which include a line feed for each message. The error names the
// lines that it is about. All lines before them were accepted, and none after them. See also
// Send.
//
// When ctx ends, SendLines completes the attempt in progress and returns. If it returns before
// the end of input, a call of input's Read may still be in progress.
func (p *Producer) SendLines(
	ctx context.Context, topic string, input io.Reader, accepted func(messages, bytes int),
) error {
	return p.sendStream(ctx, &messageStream{topic: topic, input: input}, accepted)
}

// sendStream sends the messages of stream. See SendLines.
func (p *Producer) sendStream(
	ctx context.Context, stream *messageStream, accepted func(messages, bytes int),
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := payloadLimit{current: maxPayload, ceiling: maxPayload}
	line := 1 // the first that is not accepted yet
	p.doubtful = 0
	for batch := range stream.start(ctx) {
		for len(batch) > 0 {
			count, err := p.sendPart(ctx, batch, &limit)
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
	if stream.err != nil {
		return stream.failure(line, 0, notAccepted(stream.err))
	}
	return nil
}

// sendPart sends the first of messages, as many as limit allows. After a refusal for their
// size it halves limit and tries again. It returns how many messages were accepted or, with
// an error, how many the error is about; 0: all.
func (p *Producer) sendPart(
	ctx context.Context, messages []*apiv1.Message, limit *payloadLimit,
) (int, error) {
	for {
		if ctx.Err() != nil {
			return 0, p.inDoubt(notAccepted(context.Cause(ctx)))
		}
		count, size := fitting(messages, limit.current)
		err := p.send(ctx, messages[:count])
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

// payloadLimit is the largest size of a payload of several messages, in bytes.
type payloadLimit struct {
	current int
	ceiling int // current does not grow beyond it
}

// shrink halves the limit after a payload of size bytes was refused. If the broker accepts no
// payload of that size, it halves the ceiling too.
func (l *payloadLimit) shrink(size int, tooLarge bool) {
	l.current = size / 2
	if tooLarge {
		l.ceiling = l.current
	}
}

// grow raises the limit by a sixteenth after a payload was accepted. On a link that stays
// slow, a dozen payloads are accepted before one is refused again.
func (l *payloadLimit) grow() {
	l.current = min(l.current+l.current/16+1, l.ceiling)
}

// fitting returns how many of the first messages fit into a payload of limit bytes, at least
// one, and an upper bound of the payload's size in bytes.
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

// messageStream turns an input into messages. One goroutine reads the input and cuts it into
// messages. Another collects the messages into batches while the producer sends.
type messageStream struct {
	topic string
	input io.Reader
	whole bool  // the whole input is one message; otherwise each line is one
	err   error // set before the batches end: why the end of input was not reached
}

// failure adds to err which lines it is about: count lines from line on or, if count is 0,
// all from line on.
func (s *messageStream) failure(line, count int, err error) error {
	switch {
	case s.whole:
		return err
	case count == 0:
		return fmt.Errorf("from line %d on: %w", line, err)
	case count == 1:
		return fmt.Errorf("line %d: %w", line, err)
	}
	return fmt.Errorf("lines %d to %d: %w", line, line+count-1, err)
}

// start starts the goroutines. They end at the end of input or, unless Read blocks, with ctx. They
// send all messages in batches, set err, and close the channel.
func (s *messageStream) start(ctx context.Context) <-chan []*apiv1.Message {
	pieces, batches := make(chan []*apiv1.Message), make(chan []*apiv1.Message)
	var readErr error // set before pieces is closed
	go func() {
		defer close(pieces)
		readErr = s.read(ctx, pieces)
	}()
	go func() {
		defer close(batches)
		if s.err = collect(ctx, pieces, batches); s.err == nil {
			s.err = readErr
		}
	}()
	return batches
}

// read reads the input to its end and sends its messages to pieces.
func (s *messageStream) read(ctx context.Context, pieces chan<- []*apiv1.Message) error {
	var message []byte // the unfinished message; the rest of its block is free
	for {
		message = withRoom(message)
		length := len(message)
		// One Read takes at most blockSize bytes, which may be as many line feeds.
		count, err := s.input.Read(message[length:min(cap(message), length+blockSize)])
		message = message[:length+count]
		if err == io.EOF && s.whole && len(message) == 0 && !isRegular(s.input) {
			return errors.New("the input is empty: to send an empty message, use -message ''")
		}
		var piece []*apiv1.Message
		piece, message = s.cut(message, length, err == io.EOF)
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

// withRoom returns message with at least minRead free bytes after it. If its block has fewer,
// it copies message into a new block, because finished messages use the old one.
func withRoom(message []byte) []byte {
	if cap(message)-len(message) >= minRead {
		return message
	}
	size := max(blockSize, min(3*len(message), maxMessage+blockSize))
	return append(make([]byte, 0, size), message...)
}

// cut returns the messages that data consists of, and the unfinished rest. The first old
// bytes of data have no line feed. At the end of input the rest is a message too.
func (s *messageStream) cut(data []byte, old int, atEnd bool) (
	messages []*apiv1.Message, rest []byte,
) {
	lines := 0
	if !s.whole {
		lines = bytes.Count(data[old:], []byte{'\n'})
	}
	block := make([]apiv1.Message, 0, lines+1)
	rest = data
	for range lines {
		length := bytes.IndexByte(rest, '\n')
		block = append(block, apiv1.Message{Topic: s.topic, Data: rest[:length]})
		rest = rest[length+1:]
	}
	if atEnd && (s.whole || len(rest) > 0) {
		block = append(block, apiv1.Message{Topic: s.topic, Data: rest})
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

// collect joins pieces into batches. It sends a batch when the batch is full, is the last, or
// its first message has waited for maxWait. Until the batch is received, collect continues to
// add to it. It returns nil once all pieces are sent, or the cause of ctx's end.
func collect(
	ctx context.Context, pieces <-chan []*apiv1.Message, batches chan<- []*apiv1.Message,
) error {
	var batch []*apiv1.Message
	var size int
	var due <-chan time.Time // until the batch's first message has waited for maxWait
	for pieces != nil || len(batch) > 0 {
		full, last := size >= fullPayload, pieces == nil
		in, out := pieces, batches
		if full {
			in = nil // select ignores a nil channel
		}
		if len(batch) == 0 || !full && !last && due != nil {
			out = nil
		}
		select {
		case piece, open := <-in:
			if !open {
				pieces = nil
				continue
			}
			if len(batch) == 0 {
				due = time.After(maxWait)
			}
			batch = append(batch, piece...)
			for _, message := range piece {
				size += encoder.MessageSize(message)
			}
		case <-due:
			due = nil
		case out <- batch:
			batch, size = nil, 0
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
