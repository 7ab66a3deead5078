package consumer

import (
	"bytes"
	"fmt"

	"mbus/internal/shared/logline"
)

// message is what is delivered. Its bytes are valid until the next line is read.
type message struct {
	stamp []byte // as 2024/06/02 10:39:55
	topic string
	data  []byte

	escaped []byte // topic, as in the log
}

// unescape makes message of its parts in the log; the data, which may be large, is made
// in the place of what the log has. Topics repeat, so the last one is kept.
func (message *message) unescape(parts logline.Parts) (err error) {
	if !bytes.Equal(parts.Topic, message.escaped) {
		if message.topic, err = parts.UnescapeTopic(); err != nil {
			message.escaped = nil
			return err
		}
		message.escaped = bytes.Clone(parts.Topic)
	}
	message.stamp = parts.Time
	message.data, err = parts.AppendData(parts.Data[:0])
	return err
}

// time returns the broker's local time of the message, as 2024-06-02T10:39:55.
func (message *message) time() string {
	text := []byte(string(message.stamp))
	text[4], text[7], text[10] = '-', '-', 'T'
	return string(text)
}

// wrap returns err with the message that it is about.
func (message *message) wrap(err error) error {
	return fmt.Errorf("message of %s on topic %s: %w", message.time(), message.topic, err)
}
