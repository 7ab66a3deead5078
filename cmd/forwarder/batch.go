package main

import (
	"bytes"
	"errors"

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

// message is a message of the log, as the engine has it.
type message struct {
	subject string
	data    []byte
}

// batch is messages of the log, and the position after them.
type batch struct {
	messages []message
	size     int // of their data, in bytes
	end      follow.Position
}

// hash returns the digest of the last message.
func (batch *batch) hash() digest {
	last := batch.messages[len(batch.messages)-1]
	return digestOf(last.subject, last.data)
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
		if err := forwarder.take(batch, line); err != nil {
			const shown = 60
			forwarder.report("skipped a line: %v: %q", err, line[:min(len(line), shown)])
		}
	}
	return nil
}

// take appends the message of a line to batch, if it has one, and changes the line. The
// error says why it can't be read.
func (forwarder *forwarder) take(batch *batch, line []byte) error {
	parts, found := logline.Parse(line)
	if !found && logline.IsTorn(line) {
		return errors.New("it is torn")
	}
	if !found {
		return nil
	}
	topic, err := parts.UnescapeTopic()
	if err != nil {
		return err
	}
	data, err := parts.AppendData(parts.Data[:0])
	if err != nil {
		return err
	}
	batch.messages = append(batch.messages, message{
		subject(forwarder.config.prefix, topic), bytes.Clone(data)})
	batch.size += len(data)
	return nil
}
