package consumer

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

// entry is a line of the log that has a message, in the parts that it has there.
type entry struct {
	stamp []byte // as "2024/06/02 10:39:55 "
	topic []byte // escaped
	data  []byte // escaped
}

// parse takes a line of the log apart; found is false if it is not a message's.
func parse(line []byte) (parts entry, found bool) {
	const start = stampSize + len(opening)
	if len(line) < start || string(line[stampSize:start]) != opening || !isStamp(line[:stampSize]) {
		return entry{}, false
	}
	end := start + bytes.IndexByte(line[start:], '\'')
	if end <= start || !bytes.HasPrefix(line[end:], []byte(between)) {
		return entry{}, false
	}
	data, found := bytes.CutSuffix(line[end+len(between):], []byte(closing))
	return entry{line[:stampSize], line[start:end], data}, found
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

// isTorn reports whether a line that is not a message's may have been one: it has no
// end, or another line was glued to what there is of it. Each line of a broker starts
// with a time; a message's is the only one that goes on with an R, and no other has
// the words that open it.
func isTorn(line []byte) bool {
	switch {
	case !bytes.HasSuffix(line, []byte("\n")), bytes.Contains(line, []byte(opening)):
		return true
	case isStamp(line):
		return line[stampSize] == opening[0]
	}
	return line[0] >= '0' && line[0] <= '9'
}

// message is what is delivered. Its bytes are valid until the next line is read.
type message struct {
	stamp []byte // as in the log
	topic string
	data  []byte

	escaped []byte // topic, as in the log
}

// unescape makes message of its parts in the log; the data, which may be large, is made
// in the place of what the log has. Topics repeat, so the last one is kept.
func (message *message) unescape(parts entry) (err error) {
	if !bytes.Equal(parts.topic, message.escaped) {
		topic, err := escape.Unescape(nil, parts.topic)
		if err != nil {
			return fmt.Errorf("in its topic, %w", err)
		}
		if !utf8.Valid(topic) || bytes.ContainsFunc(topic, unicode.IsControl) {
			return errors.New("its topic is not printable")
		}
		message.topic, message.escaped = string(topic), bytes.Clone(parts.topic)
	}
	message.stamp = parts.stamp
	if message.data, err = escape.Unescape(parts.data[:0], parts.data); err != nil {
		return fmt.Errorf("in its data, %w", err)
	}
	return nil
}

// time returns the broker's local time of the message, as 2024-06-02T10:39:55.
func (message *message) time() string {
	text := []byte(string(message.stamp[:stampSize-1]))
	text[4], text[7], text[10] = '-', '-', 'T'
	return string(text)
}

// wrap returns err with the message that it is about.
func (message *message) wrap(err error) error {
	return fmt.Errorf("message of %s on topic %s: %w", message.time(), message.topic, err)
}
