package producer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
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
func (producer *Producer) sendStream(ctx context.Context, stream *stream, accepted func(messages, bytes int)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := payloadLimit{current: maxPayload, ceiling: maxPayload}
	line := 1 // the first that is not accepted yet
	for batch := range stream.start(ctx) {
		for len(batch) > 0 {
			if ctx.Err() != nil {
				return stream.failure(line, 0, notAccepted(context.Cause(ctx)))
			}
			count, size := fitting(batch, limit.current)
			err := producer.Send(ctx, batch[:count])
			var refusal Refusal
			refused := errors.As(err, &refusal)
			switch {
			case count > 1 && (strings.HasPrefix(string(refusal), apiv1.TooLarge) || strings.HasPrefix(string(refusal), apiv1.NoEnd)):
				limit.shrink(size, strings.HasPrefix(string(refusal), apiv1.TooLarge))
				continue
			case refused || errors.Is(err, ErrUnknown):
				return stream.failure(line, count, err)
			case err != nil:
				return stream.failure(line, 0, err)
			}
			read := count // the line feeds
			for _, message := range batch[:count] {
				read += len(message.Data)
			}
			accepted(count, read)
			limit.grow()
			line += count
			batch = batch[count:]
		}
	}
	if stream.err != nil {
		return stream.failure(line, 0, notAccepted(stream.err))
	}
	return nil
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
	whole bool  // the input is one message; otherwise each line is
	err   error // why there is no more before the input's end; valid after all messages
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
// holds them up, with ctx. All messages come over the channel, which is closed
// after the last.
func (stream *stream) start(ctx context.Context) <-chan []*apiv1.Message {
	pieces := make(chan []*apiv1.Message)
	batches := make(chan []*apiv1.Message)
	var wrong error // valid once pieces is closed
	go func() {
		defer close(pieces)
		wrong = stream.read(ctx, pieces)
	}()
	go func() {
		defer close(batches)
		if collect(ctx, pieces, batches) {
			stream.err = wrong
		} else {
			stream.err = context.Cause(ctx)
		}
	}()
	return batches
}

// read reads the input to its end and hands over the messages that it finds.
func (stream *stream) read(ctx context.Context, pieces chan<- []*apiv1.Message) error {
	block := make([]byte, 0, blockSize)
	begin := 0 // of the message in hand, in block
	for {
		if cap(block)-len(block) < minRead {
			rest := block[begin:]
			block = make([]byte, len(rest), max(blockSize, min(3*len(rest), maxMessage+blockSize)))
			copy(block, rest)
			begin = 0
		}
		// No more at once than an ordinary block: it may be all line feeds.
		count, err := stream.input.Read(block[len(block):min(cap(block), len(block)+blockSize)])
		fresh := block[len(block) : len(block)+count]
		block = block[:len(block)+count]

		ends := 0
		if !stream.whole {
			ends = bytes.Count(fresh, []byte{'\n'})
		}
		messages := make([]apiv1.Message, 0, ends+1)
		for range ends {
			length := bytes.IndexByte(block[begin:], '\n')
			messages = append(messages, apiv1.Message{Topic: stream.topic, Data: block[begin : begin+length]})
			begin += length + 1
		}
		if err == io.EOF && stream.whole && len(block) == 0 && !isRegular(stream.input) {
			return errors.New("the input is empty: to send an empty message, use -message ''")
		}
		if err == io.EOF && (stream.whole || begin < len(block)) {
			messages = append(messages, apiv1.Message{Topic: stream.topic, Data: block[begin:]})
		}
		if len(messages) > 0 {
			piece := make([]*apiv1.Message, len(messages))
			for i := range messages {
				piece[i] = &messages[i]
			}
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
		case len(block)-begin > maxMessage:
			return fmt.Errorf("the message is longer than %d bytes", maxMessage)
		}
	}
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
// up to a payload. It tells whether it has handed over all that came.
func collect(ctx context.Context, pieces <-chan []*apiv1.Message, batches chan<- []*apiv1.Message) bool {
	var batch []*apiv1.Message
	var size int
	var due <-chan time.Time // nil once the first message has waited for long enough
	for pieces != nil || len(batch) > 0 {
		in, out := pieces, batches
		if size >= fullPayload {
			in = nil
		}
		if in != nil && (due != nil || len(batch) == 0) {
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
			return false
		}
	}
	return true
}
