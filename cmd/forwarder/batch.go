package main

import (
	"bytes"
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
		line, err := forwarder.log.Next()
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

// deliver sends messages as one batch, or as several smaller ones if the engine refuses it. If the
// reason may be an unanswered batch, it returns the refusal for a wrong sequence.
func (forwarder *forwarder) deliver(messages []*nats.Msg) error {
	for first := 0; first < len(messages); {
		count := min(len(messages)-first, forwarder.limit)
		err := forwarder.send(messages[first : first+count])
		refusal, isRefusal := errors.AsType[*jetstream.APIError](err)
		isTooLarge := errors.Is(err, nats.ErrMaxPayload) ||
			isRefusal && refusal.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum
		switch {
		case err == nil:
			first += count
			forwarder.acknowledged(count)
		case isMisplaced(err) && !forwarder.doubt:
			return stray("stream %s should end at %d: %w: somebody else publishes to the stream, "+
				"or it was recreated", forwarder.config.stream, forwarder.last, refusal)
		case isMisplaced(err):
			return err
		case count > 1 && (isTooLarge || isRefusal):
			forwarder.limit = count / 2
		case isTooLarge:
			return fmt.Errorf("message %d after offset %d of %s is too large for the engine: "+
				"%d bytes for %s, and headers; max_payload is %d, max_msg_size %d (-1: no limit)",
				first+1, forwarder.place.position.Offset, forwarder.config.log,
				len(messages[first].Data), messages[first].Subject,
				forwarder.connection.MaxPayload(), forwarder.stream.Config.MaxMsgSize)
		default:
			return forwarder.away(err)
		}
	}
	return nil
}

// isMisplaced reports whether err is the refusal of a batch because the stream does not end where
// the batch begins. A replicated stream has an error code of its own for it.
func isMisplaced(err error) bool {
	refusal, isRefusal := errors.AsType[*jetstream.APIError](err)
	return isRefusal && (refusal.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		refusal.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// acknowledged counts messages that the stream has stored. It lets batches grow again, and
// reports the end of an outage.
func (forwarder *forwarder) acknowledged(count int) {
	forwarder.last += uint64(count)
	forwarder.doubt = false // an older batch that is unanswered can't be stored any more
	forwarder.limit = min(forwarder.limit+forwarder.limit/10+1, maxMessages)
	forwarder.back()
}

// send sends messages as one atomic batch, and waits for the answer. The stream stores all of
// them directly after its sequence last, or none of them. ADR-50 of the engine's architecture
// documents describes the headers.
func (forwarder *forwarder) send(messages []*nats.Msg) error {
	id, last := rand.Text(), messages[len(messages)-1]
	header := nats.Header{
		"Nats-Batch-Id":                 {id},
		jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(forwarder.last, 10)},
		jetstream.ExpectedStreamHeader:  {forwarder.config.stream},
	}
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
	doubt := forwarder.doubt
	forwarder.doubt = true
	reply, err := forwarder.connection.RequestMsg(last, forwarder.config.timeout)
	if err == nil {
		err = forwarder.check(reply.Data, id, len(messages))
	}
	refusal, isRefusal := errors.AsType[*jetstream.APIError](err)
	if errors.Is(err, nats.ErrMaxPayload) || isRefusal && refusal.Code < 500 {
		forwarder.doubt = doubt // the stream did not store the batch, and never will
	}
	return err
}

// check returns nil if reply says that the stream stored the count messages of the batch id
// directly after last.
func (forwarder *forwarder) check(reply []byte, id string, count int) error {
	var answer struct {
		Stream, Batch string
		Sequence      uint64 `json:"seq"`
	}
	err := decode(reply, &answer)
	isRight := err == nil && answer.Stream == forwarder.config.stream && answer.Batch == id &&
		answer.Sequence == forwarder.last+uint64(count)
	if isRight || errors.As(err, new(*jetstream.APIError)) {
		return err
	}
	return fmt.Errorf("the answer to %d messages after %d is %.200q: "+
		"does something besides the stream answer?", count, forwarder.last, reply)
}
