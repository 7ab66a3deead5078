// Package logline takes apart the lines that a broker writes for messages.
package logline

import (
	"bytes"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"mbus/internal/shared/escape"
)

const (
	// stampSize is the length of the time that starts each line of the log, in
	// the format of the standard log package, with the space after it.
	stampSize = len("2024/06/02 10:39:55 ")

	// A message's line is, after its time, opening, the topic, between, the data,
	// and closing. There is no apostrophe in the topic as the log has it.
	opening = "Received new message from topic '"
	between = "': '"
	closing = "'\n"
)

// Parts is a line that has a message, in the parts that it has there. They are valid
// as long as the line is.
type Parts struct {
	Time  []byte // as 2024/06/02 10:39:55, the broker's local time
	Topic []byte // escaped
	Data  []byte // escaped
}

// Parse takes a line of the log, with its line feed, apart; found is false if it is not
// a message's.
func Parse(line []byte) (parts Parts, found bool) {
	const start = stampSize + len(opening)
	if len(line) < start || string(line[stampSize:start]) != opening || !isStamp(line[:stampSize]) {
		return Parts{}, false
	}
	end := start + bytes.IndexByte(line[start:], '\'')
	if end <= start || !bytes.HasPrefix(line[end:], []byte(between)) {
		return Parts{}, false
	}
	data, found := bytes.CutSuffix(line[end+len(between):], []byte(closing))
	return Parts{line[:stampSize-1], line[start:end], data}, found
}

// isStamp reports whether text has the form of the time that starts a line.
func isStamp(text []byte) bool {
	const form = "0000/00/00 00:00:00 "
	if len(text) < len(form) {
		return false
	}
	for i, b := range text[:len(form)] {
		if isDigit := b >= '0' && b <= '9'; b != form[i] && !(isDigit && form[i] == '0') {
			return false
		}
	}
	return true
}

// IsTorn reports whether a line that is not a message's may have been one: it has no
// end, or another line was glued to what there is of it. Each line of a broker starts
// with a time; a message's is the only one that goes on with an R, and no other has
// the words that open it.
func IsTorn(line []byte) bool {
	switch {
	case !bytes.HasSuffix(line, []byte("\n")), bytes.Contains(line, []byte(opening)):
		return true
	case isStamp(line):
		return line[stampSize] == opening[0]
	}
	return line[0] >= '0' && line[0] <= '9'
}

// UnescapeTopic returns the topic as it was sent. The error says what is wrong with it.
func (parts Parts) UnescapeTopic() (string, error) {
	topic, err := escape.Unescape(nil, parts.Topic)
	if err != nil {
		return "", fmt.Errorf("in its topic, %w", err)
	}
	if !utf8.Valid(topic) || bytes.ContainsFunc(topic, unicode.IsControl) {
		return "", errors.New("its topic is not printable")
	}
	return string(topic), nil
}

// AppendData appends the data to buffer as it was sent, and returns the longer buffer.
// The data has at most as many bytes as Data has, and buffer may be Data[:0]. The error
// says what is wrong with it.
func (parts Parts) AppendData(buffer []byte) ([]byte, error) {
	buffer, err := escape.Unescape(buffer, parts.Data)
	if err != nil {
		return buffer, fmt.Errorf("in its data, %w", err)
	}
	return buffer, nil
}
