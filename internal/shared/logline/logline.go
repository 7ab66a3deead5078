// Package logline formats and parses the lines of a broker's log.
package logline

import (
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
)

// StampLayout is the layout of the time stamp that starts each line of the log, for
// time.Time.Format. It is that of the standard log package. StampFormat has the space after it.
const (
	StampLayout = "2006/01/02 15:04:05"
	StampFormat = StampLayout + " "
)

const (
	stampSize = len(StampFormat)

	// A message's line is the time stamp, opening, the topic, between, the data and
	// closing. In the topic, an apostrophe is escaped.
	opening = "Received new message from topic '"
	between = "': '"
	closing = "'\n"
)

// Stamp formats time stamps, and formats each second once. The zero value is ready to use. It is
// not safe for concurrent use.
type Stamp struct {
	second int64 // the Unix time of text
	text   []byte
}

// Append appends the time stamp for when to line, and returns the longer line.
func (s *Stamp) Append(line []byte, when time.Time) []byte {
	if second := when.Unix(); second != s.second || s.text == nil {
		s.second, s.text = second, when.AppendFormat(s.text[:0], StampFormat)
	}
	return append(line, s.text...)
}

// Append appends the line of message, from the end of its time stamp to its line feed, to line,
// and returns the longer line.
func Append(line []byte, message *apiv1.Message) []byte {
	line = append(line, opening...)
	line = escape.AppendName(line, []byte(message.Topic))
	line = append(line, between...)
	line = escape.Append(line, message.Data)
	return append(line, closing...)
}

// MaxSize returns a size in bytes that the whole line of message does not exceed.
func MaxSize(message *apiv1.Message) int {
	return stampSize + len(opening+between+closing) +
		escape.MaxSize([]byte(message.Topic)) + escape.MaxSize(message.Data)
}

// IsStamp reports whether text begins with the form of a time stamp.
func IsStamp(text []byte) bool {
	return len(text) >= stampSize && BeginsStamp(text)
}

// BeginsStamp reports whether text begins with the form of a time stamp, as far as text goes. An
// empty text does.
func BeginsStamp(text []byte) bool {
	const (
		low  = "0000/00/00 00:00:00 "
		high = "9999/99/99 99:99:99 "
	)
	for i, b := range text[:min(len(text), len(low))] {
		if b < low[i] || b > high[i] {
			return false
		}
	}
	return true
}
