// Package logline formats and parses the lines of a broker's log.
package logline

import (
	"bytes"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
)

// StampFormat is the format of the time stamp that starts each line of the log, with the space
// after it, for time.Time.Format. It is that of the standard log package.
const StampFormat = "2006/01/02 15:04:05 "

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
func (stamp *Stamp) Append(line []byte, when time.Time) []byte {
	if second := when.Unix(); second != stamp.second || stamp.text == nil {
		stamp.second, stamp.text = second, when.AppendFormat(stamp.text[:0], StampFormat)
	}
	return append(line, stamp.text...)
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

// Parts are the parts of a message's line. They are slices of the line.
type Parts struct {
	Time  []byte // as 2024/06/02 10:39:55, the broker's local time
	Topic []byte // escaped
	Data  []byte // escaped
}

// Parse parses a line of the log, with its line feed. If it is not a message's, found is
// false.
//
// A known limit: a torn line with a whole line glued to it can have exactly the bytes of one
// message, and then Parse returns one message. A broker with -log cuts a torn end off before it
// appends a line, but a log from elsewhere may have one, as on a consumer's standard input.
func Parse(line []byte) (parts Parts, found bool) {
	const start = stampSize + len(opening)
	if len(line) < start || string(line[stampSize:start]) != opening || !IsStamp(line[:stampSize]) {
		return Parts{}, false
	}
	end := start + bytes.IndexByte(line[start:], '\'')
	if end <= start || !bytes.HasPrefix(line[end:], []byte(between)) {
		return Parts{}, false
	}
	data, found := bytes.CutSuffix(line[end+len(between):], []byte(closing))
	return Parts{line[:stampSize-1], line[start:end], data}, found
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

// IsTorn reports whether a line that is not a message's may have a part of one: it has no
// line feed, or it has parts of two lines. A broker starts each line with a time stamp. Only a
// message's line has an R after the time stamp, and only a message's line has the words of
// opening.
func IsTorn(line []byte) bool {
	switch {
	case !bytes.HasSuffix(line, []byte("\n")), bytes.Contains(line, []byte(opening)):
		return true
	case IsStamp(line):
		return line[stampSize] == opening[0]
	}
	return line[0] >= '0' && line[0] <= '9'
}

// UnescapeTopic returns the topic as it was sent. The error says what is wrong with the topic.
func (parts Parts) UnescapeTopic() (string, error) {
	topic, err := escape.Unescape(nil, parts.Topic)
	if err != nil {
		return "", fmt.Errorf("in its topic, %w", err)
	}
	if len(topic) > apiv1.MaxTopic {
		return "", fmt.Errorf("its topic is longer than %d bytes", apiv1.MaxTopic)
	}
	if !utf8.Valid(topic) || bytes.ContainsFunc(topic, unicode.IsControl) {
		return "", errors.New("its topic is not printable")
	}
	return string(topic), nil
}

// AppendData appends the data to buffer as it was sent, and returns the longer buffer. The
// data is not longer than Data, and buffer may be Data[:0]. The error says what is wrong with
// the data.
func (parts Parts) AppendData(buffer []byte) ([]byte, error) {
	buffer, err := escape.Unescape(buffer, parts.Data)
	if err != nil {
		return buffer, fmt.Errorf("in its data, %w", err)
	}
	return buffer, nil
}
