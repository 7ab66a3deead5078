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
}

// read appends messages of the log to batch, until batch has count messages or is full, or
// until the log has no more at present. After an error, batch has the messages before it.
func (forwarder *forwarder) read(batch *batch, count int) error {
	defer func() {
		batch.end.position = forwarder.log.Position()
		if last := len(batch.messages) - 1; last >= 0 {
			batch.end.hash = hash(batch.messages[last])
		}
	}()
	for len(batch.messages) < count && batch.size < fullSize {
		line, err := forwarder.next()
		if line == nil || err != nil {
			return err
		}
		message, err := forwarder.parser.Parse(line)
		if err != nil {
			forwarder.report("skipped a line: %v", err)
		}
		if message != nil {
			subject := subject(forwarder.config.prefix, message.Topic)
			data := bytes.Clone(message.Data)
			batch.messages = append(batch.messages, &nats.Msg{Subject: subject, Data: data})
			batch.size += len(data)
			batch.end.sequence++
		}
	}
	return nil
}

// refused decides how to go on after send has returned err for a batch. Without an error, the log is
// read again from the place. If the reason may be an unanswered batch that has come late, refused
// looks for it in the stream.
func (forwarder *forwarder) refused(stop context.Context, batch *batch, err error) error {
	refusal, isRefusal := errors.AsType[*jetstream.APIError](err)
	isTooLarge := errors.Is(err, nats.ErrMaxPayload) ||
		isRefusal && refusal.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum
	isMisplaced := isRefusal && // a replicated stream has an error code of its own for it
		(refusal.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			refusal.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
	if !isTooLarge && !(isRefusal && refusal.Code < 500) {
		forwarder.unanswered = true
	}
	count, first, before := len(batch.messages), batch.messages[0], forwarder.place
	switch {
	case isMisplaced && !forwarder.unanswered:
		return stray("stream %s should end at %d: %w: somebody else publishes to the stream, "+
			"or it was recreated", forwarder.config.stream, before.sequence, refusal)
	case isMisplaced:
		err := forwarder.settle(stop)
		if err == nil && forwarder.place == before {
			return forwarder.away(refusal) // the stream does not show that batch yet
		}
		forwarder.unanswered = err != nil
		return err
	case count > 1 && (isTooLarge || isRefusal):
		forwarder.limit = count / 2
		forwarder.log.Seek(before.position)
		return nil
	case isTooLarge:
		return fmt.Errorf("%s: the message after %v is too large for the engine: "+
			"%d bytes for %s, and headers; max_payload is %d, max_msg_size %d (-1: no limit)",
			forwarder.config.log, before.position, len(first.Data), first.Subject,
			forwarder.connection.MaxPayload(), forwarder.maxSize)
	}
	return forwarder.away(err)
}

// send sends a batch, and waits for the answer. The stream stores all of its messages, so that it
// ends where the batch does, or none of them. ADR-50 of the engine's architecture documents
// describes the headers.
func (forwarder *forwarder) send(batch *batch) error {
	messages := batch.messages
	id, before := rand.Text(), batch.end.sequence-uint64(len(messages))
	header := nats.Header{
		"Nats-Batch-Id":                 {id},
		jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(before, 10)},
		jetstream.ExpectedStreamHeader:  {forwarder.config.stream},
	}
	last := messages[len(messages)-1]
	for i, message := range messages {
		message.Header = header
		header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if message == last {
			break
		}
		if err := forwarder.connection.PublishMsg(message); err != nil {
			return err // the stream drops a batch without its last message
		}
		header.Del(jetstream.ExpectedLastSeqHeader) // for the first message only
		header.Del(jetstream.ExpectedStreamHeader)
	}
	header.Set("Nats-Batch-Commit", "1")
	reply, err := forwarder.connection.RequestMsg(last, forwarder.config.timeout)
	if err != nil {
		return err
	}
	return forwarder.check(reply.Data, id, batch.end.sequence)
}

// check returns nil if reply says that the stream stored the batch id up to the sequence end.
func (forwarder *forwarder) check(reply []byte, id string, end uint64) error {
	var answer struct {
		Stream, Batch string
		Sequence      uint64 `json:"seq"`
	}
	err := decode(reply, &answer)
	isRight := err == nil && answer.Stream == forwarder.config.stream && answer.Batch == id &&
		answer.Sequence == end
	if isRight || errors.As(err, new(*jetstream.APIError)) {
		return err
	}
	return fmt.Errorf("the answer to the messages up to %d is %.200q: "+
		"does something besides the stream answer?", end, reply)
}
