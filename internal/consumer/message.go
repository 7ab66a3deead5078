package consumer

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// message is a message to deliver. The zero message is none. The bytes are valid until the next
// line is read.
type message struct {
	*logline.Message
	id string // as in 5b1b30b6c2830ccd-12-48213-9a0364b9; empty where it is not needed
}

// newID returns the id of a message that comes from origin.
func newID(origin follow.Origin, checksum uint32) string {
	text := origin.Append(make([]byte, 0, 64)) // longer than any id
	sum := binary.BigEndian.AppendUint32(nil, checksum)
	return string(hex.AppendEncode(append(text, '-'), sum))
}

// appendTime appends the broker's local time of the message, as 2024-06-02T10:39:55, to text.
func (m message) appendTime(text []byte) []byte {
	start := len(text)
	text = append(text, m.Stamp...)
	text[start+4], text[start+7], text[start+10] = '-', '-', 'T'
	return text
}

// String names the message in a report.
func (m message) String() string {
	return fmt.Sprintf("message %s on topic %s", m.id, m.Topic)
}
