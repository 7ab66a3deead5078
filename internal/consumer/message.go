package consumer

import (
	"bytes"
	"fmt"

	"mbus/internal/shared/logline"
)

// message is a message to deliver. Its bytes are valid until the next line is read.
type message struct {
	stamp []byte // as 2024/06/02 10:39:55
	topic string
	data  []byte

	escaped []byte // the topic as in the log
}

// unescape sets message to the message that parts has. It unescapes the data in place, because
// data may be large. It does not unescape the same topic twice in a row.
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
	text := bytes.Clone(message.stamp)
	text[4], text[7], text[10] = '-', '-', 'T'
	return string(text)
}

// wrap adds the message's time and topic to err.
func (message *message) wrap(err error) error {
	return fmt.Errorf("message of %s on topic %s: %w", message.time(), message.topic, err)
}
