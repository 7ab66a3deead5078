package main

import (
	"bytes"
	"errors"

	"github.com/nats-io/nats.go"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

const (
	// maxMessages is the engine's own limit for a batch.
	maxMessages = 1000

	// fullSize is how many bytes of data make a batch full. With the largest message that
	// the engine takes by default, it has at most 4 MiB.
	fullSize = 3 << 20
)

// batch is messages of the log, with subjects and data, and the position after them.
type batch struct {
	messages []*nats.Msg
	size     int // of their data, in bytes
	end      follow.Position
}

// hash returns the hash of the last message.
func (batch *batch) hash() string {
	last := batch.messages[len(batch.messages)-1]
	return hash(last.Subject, last.Data)
}

// read appends messages of the log to batch until it has count, or is full, or the log has
// no more at present. What it has read before an error is in batch.
func (forwarder *forwarder) read(batch *batch, count int) error {
	defer func() { batch.end = forwarder.log.Position() }()
	for len(batch.messages) < count && batch.size < fullSize {
		line, err := forwarder.log.Next()
		if line == nil || err != nil {
			return err
		}
		message, err := forwarder.parse(line)
		if err != nil {
			forwarder.report("skipped a line: %v: %.60q", err, line)
		}
		if message != nil {
			batch.messages = append(batch.messages, message)
			batch.size += len(message.Data)
		}
	}
	return nil
}

// parse returns the message of a line, if it has one, and changes the line. The error says
// why it can't be read.
func (forwarder *forwarder) parse(line []byte) (*nats.Msg, error) {
	parts, found := logline.Parse(line)
	switch {
	case !found && logline.IsTorn(line):
		return nil, errors.New("it is torn")
	case !found:
		return nil, nil
	}
	topic, err := parts.UnescapeTopic()
	if err != nil {
		return nil, err
	}
	data, err := parts.AppendData(parts.Data[:0])
	if err != nil {
		return nil, err
	}
	subject := subject(forwarder.config.prefix, topic)
	return &nats.Msg{Subject: subject, Data: bytes.Clone(data)}, nil
}
