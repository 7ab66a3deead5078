package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxMessages is the engine's limit for a batch.
	maxMessages = 1000

	// fullSize is the number of bytes of data that makes a batch full. The last message may
	// exceed it. The engine's default limit for a message is 1 MiB, so a batch has at most 4 MiB.
	fullSize = 3 << 20
)

// batch has messages of the log, with subjects and data.
type batch struct {
	messages []*nats.Msg
	size     int   // bytes of data
	end      place // after the messages
	isWhole  bool  // whether send has come to the last message: the stream may store the batch
}

// read appends messages of the log to b, until it has count messages or is full, or until the log
// has no more at present. After an error, b has the messages before it.
func (f *forwarder) read(b *batch, count int) error {
	defer func() {
		b.end.position = f.log.Position()
		if last := len(b.messages) - 1; last >= 0 {
			b.end.hash = hash(b.messages[last])
		}
	}()
	for len(b.messages) < count && b.size < fullSize {
		line, err := f.next()
		if line == nil || err != nil {
			return err
		}
		message, err := f.parser.Parse(line)
		if err != nil {
			f.report("skipped a line: %v", err)
		}
		if message != nil {
			b.messages = append(b.messages, &nats.Msg{
				Subject: subject(f.config.prefix, message.Topic), Data: bytes.Clone(message.Data)})
			b.size += len(message.Data)
			b.end.sequence++
		}
	}
	return nil
}

// sendFailed handles err, which send has returned for b. If it returns nil, reading goes on after
// the place: because smaller batches may succeed, or because an unanswered batch has come late, and
// its messages were found in the stream.
func (f *forwarder) sendFailed(stop context.Context, b *batch, err error) error {
	refusal, isRefusal := errors.AsType[*jetstream.APIError](err)
	isTooLarge := errors.Is(err, nats.ErrMaxPayload) ||
		isRefusal && refusal.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum
	isMisplaced := isRefusal && // a replicated stream has an error code of its own for it
		(refusal.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			refusal.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
	if b.isWhole && !isTooLarge && !(isRefusal && refusal.Code < 500) {
		f.unanswered = true // otherwise the stream never stores the batch
	}
	count, first, before := len(b.messages), b.messages[0], f.place
	switch {
	case isMisplaced && !f.unanswered:
		return stray("stream %s should end at %d: %w: somebody else publishes to the stream, "+
			"or it was recreated", f.config.stream, before.sequence, refusal)
	case isMisplaced:
		b.messages = nil // settle needs the memory
		err := f.settle(stop)
		if err == nil && f.place == before {
			return f.away(refusal) // the stream does not show that batch yet
		}
		f.unanswered = err != nil
		return err
	case count > 1 && (isTooLarge || isRefusal):
		f.limit = count / 2
		f.log.Seek(before.position)
		return nil
	case isTooLarge:
		return fmt.Errorf("%s: the message after %v is too large for the engine: "+
			"%d bytes for %s, and headers; max_payload is %d, max_msg_size %d (-1: no limit)",
			f.config.log, before.position, len(first.Data), first.Subject,
			f.connection.MaxPayload(), f.maxSize)
	}
	return f.away(err)
}

// send sends b as one atomic batch, and waits for the answer. The stream stores all messages of b
// directly after the sequence before b, or none of them. ADR-50 of the engine's architecture
// documents describes the headers.
func (f *forwarder) send(b *batch) error {
	id, before := rand.Text(), b.end.sequence-uint64(len(b.messages))
	header := nats.Header{
		"Nats-Batch-Id":                 {id},
		jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(before, 10)},
		jetstream.ExpectedStreamHeader:  {f.config.stream},
	}
	last := b.messages[len(b.messages)-1]
	for i, message := range b.messages {
		message.Header = header
		header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if message == last {
			break
		}
		if err := f.connection.PublishMsg(message); err != nil {
			return err // the stream drops a batch without its last message
		}
		header.Del(jetstream.ExpectedLastSeqHeader) // for the first message only
		header.Del(jetstream.ExpectedStreamHeader)
	}
	header.Set("Nats-Batch-Commit", "1")
	b.isWhole = true
	reply, err := f.connection.RequestMsg(last, f.config.timeout)
	if err != nil {
		return err
	}
	return f.check(reply.Data, id, b.end.sequence)
}

// check returns nil if reply says that the stream stored the batch id up to the sequence end.
func (f *forwarder) check(reply []byte, id string, end uint64) error {
	var answer struct {
		Stream, Batch string
		Sequence      uint64 `json:"seq"`
	}
	err := decode(reply, &answer)
	isRight := err == nil && answer.Stream == f.config.stream && answer.Batch == id &&
		answer.Sequence == end
	if isRight || errors.As(err, new(*jetstream.APIError)) {
		return err
	}
	return fmt.Errorf("the answer to the messages up to %d is %.200q: "+
		"does something besides the stream answer?", end, reply)
}
