package consumer

import (
	"bytes"
	"fmt"

	"mbus/internal/shared/logline"
)

// message is a message to deliver. Its bytes are valid until the next line is read.
type message struct {
	*logline.Message
	id string // as in 5b1b30b6c2830ccd-12-48213-9a0364b9; empty where it is not needed
}

// time returns the broker's local time of the message, as 2024-06-02T10:39:55.
func (message *message) time() string {
	text := bytes.Clone(message.Stamp)
	text[4], text[7], text[10] = '-', '-', 'T'
	return string(text)
}

// keep copies what is a part of the message's line, so that the next line may be read. It uses the
// room of buffer for the data, and returns a larger one if that was too small.
func (message *message) keep(buffer []byte) []byte {
	kept := *message.Message
	if cap(buffer) < len(kept.Data) {
		buffer = make([]byte, len(kept.Data)) // no larger, because the data may be
	}
	kept.Stamp = bytes.Clone(kept.Stamp)
	kept.Data = append(buffer[:0], kept.Data...)
	message.Message = &kept
	return buffer
}

// wrap adds the message's id and topic to err.
func (message *message) wrap(err error) error {
	return fmt.Errorf("message %s on topic %s: %w", message.id, message.Topic, err)
}
