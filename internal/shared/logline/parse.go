package logline

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"unicode"
	"unicode/utf8"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
)

// Message is the message of a line. Stamp and Data are parts of the line.
type Message struct {
	Stamp    []byte // as 2024/06/02 10:39:55, the broker's local time
	Topic    string // as it was sent
	Data     []byte // as it was sent
	Checksum uint32 // if the Parser has Sums: the CRC-32 (IEEE) of the line without its line feed
}

// Parser parses the lines of a log. The zero value is ready to use. It is not safe for concurrent
// use.
type Parser struct {
	Topics []string // the wanted ones; empty: all
	Sums   bool     // whether messages get their Checksum

	escaped []byte // the last topic, as in the log; empty: there is none
	topic   []byte // the same, as it was sent
	wanted  bool   // whether it is wanted
	message Message
}

// Parse parses a line of the log, with its line feed. It returns nil for a line that is not a
// message's, and for a message whose topic is not wanted. The error is for a line that a crash has
// torn or a power loss has overwritten with zeros, and for a message that no broker writes. It
// says what is wrong and shows how the line begins.
//
// Parse unescapes the data in place, because data may be large. So it changes the line. The
// Message is valid until the line changes or Parse is called again.
//
// A known limit: a torn line with a whole line glued to it can have exactly the bytes of one
// message, and then Parse returns one message. A broker with -log cuts a torn end off before it
// appends a line, but a log from elsewhere may have one, as on a consumer's standard input.
func (p *Parser) Parse(line []byte) (*Message, error) {
	topic, data, isMessage := cut(line)
	isWanted, err := false, error(nil)
	if isMessage {
		isWanted, err = p.want(topic)
	}
	switch {
	case err != nil:
	case !isWanted:
		err = damage(line, isMessage)
	default:
		if p.Sums {
			p.message.Checksum = crc32.ChecksumIEEE(line[:len(line)-1])
		}
		p.message.Stamp = line[:stampSize-1]
		if p.message.Data, err = escape.Unescape(data[:0], data); err != nil {
			err = fmt.Errorf("in its data, %w", err)
		}
	}
	if err != nil {
		const shown = stampSize + len(opening+between) // less than where the data begins
		return nil, fmt.Errorf("%w: %q", err, line[:min(len(line), shown)])
	}
	if !isWanted {
		return nil, nil
	}
	return &p.message, nil
}

// cut returns the topic and the data of a message's line, both escaped. If the line is not a
// message's, found is false.
func cut(line []byte) (topic, data []byte, found bool) {
	const start = stampSize + len(opening)
	if len(line) < start || string(line[stampSize:start]) != opening || !IsStamp(line) {
		return nil, nil, false
	}
	end := start + bytes.IndexByte(line[start:], '\'')
	if end <= start || !bytes.HasPrefix(line[end:], []byte(between)) {
		return nil, nil, false
	}
	data, found = bytes.CutSuffix(line[end+len(between):], []byte(closing))
	return line[start:end], data, found
}

// damage returns nil if a line that is not unescaped is whole. A broker starts each line with a
// time stamp, and writes no zero bytes. Only a message's line has an R after the time stamp, and
// only a message's line has the words of opening.
func damage(line []byte, isMessage bool) error {
	isTorn := false
	switch {
	case bytes.IndexByte(line, 0) >= 0:
		return errors.New("it has zeros, as a power loss leaves them")
	case isMessage:
	case !bytes.HasSuffix(line, []byte("\n")), bytes.Contains(line, []byte(opening)):
		isTorn = true
	case IsStamp(line):
		isTorn = line[stampSize] == opening[0]
	default:
		isTorn = line[0] >= '0' && line[0] <= '9'
	}
	if isTorn {
		return errors.New("it is torn")
	}
	return nil
}

// want reports whether an escaped topic is wanted, and sets the message's topic if it is. It does
// nothing for the same topic again. The error says what is wrong with a topic that may be wanted.
func (p *Parser) want(escaped []byte) (wanted bool, err error) {
	if bytes.Equal(escaped, p.escaped) {
		return p.wanted, nil
	}
	p.escaped = p.escaped[:0]
	p.topic, err = unescapeTopic(p.topic[:0], escaped)
	isNamed := func(wanted string) bool { return wanted == string(p.topic) }
	if len(p.Topics) > 0 {
		p.wanted = err == nil && slices.ContainsFunc(p.Topics, isNamed)
	} else if p.wanted = true; err != nil {
		return false, err
	}
	if p.wanted {
		p.message.Topic = string(p.topic)
	}
	p.escaped = append(p.escaped, escaped...)
	return p.wanted, nil
}

// unescapeTopic appends the topic as it was sent to buffer. The error says what is wrong with it.
func unescapeTopic(buffer, escaped []byte) (topic []byte, err error) {
	topic, err = escape.Unescape(buffer, escaped)
	switch {
	case err != nil:
		err = fmt.Errorf("in its topic, %w", err)
	case len(topic) > apiv1.MaxTopic:
		err = fmt.Errorf("its topic is longer than %d bytes", apiv1.MaxTopic)
	case !utf8.Valid(topic) || bytes.ContainsFunc(topic, unicode.IsControl):
		err = errors.New("its topic is not printable")
	}
	return topic, err
}

// StampOf returns the time stamp of a line, as 2024/06/02 10:39:55, or nil if the line has none.
// Of two stamps, the earlier one is less.
func StampOf(line []byte) []byte {
	if !IsStamp(line) {
		return nil
	}
	return line[:stampSize-1]
}
