package consumer

import (
	"encoding/base64"
	"io"
	"strconv"
	"unicode/utf8"
)

// objects writes messages as JSON objects (RFC 8259) to a stream. It leaves the stream's errors to
// the stream, which must return them later.
type objects struct {
	stream io.Writer
	text   []byte // a buffer
}

// write writes a message in one line without its end, and without a copy of its data. The object
// has the attempt, unless that is 0.
func (o *objects) write(m message, attempt int) {
	text := append(o.text[:0], `{"id":"`...)
	text = append(append(text, m.id...), `","time":"`...)
	o.text = append(m.appendTime(text), `","topic":"`...)
	o.stream.Write(o.text)
	o.writeString([]byte(m.Topic))
	if utf8.Valid(m.Data) {
		o.add(`","data":"`)
		o.writeString(m.Data)
	} else {
		o.add(`","base64":"`)
		encoder := base64.NewEncoder(base64.StdEncoding, o.stream)
		encoder.Write(m.Data)
		encoder.Close()
	}
	if attempt > 0 {
		o.add(`","attempt":` + strconv.Itoa(attempt) + "}")
	} else {
		o.add(`"}`)
	}
}

// add writes text by way of the buffer, which costs no garbage.
func (o *objects) add(text string) {
	o.text = append(o.text[:0], text...)
	o.stream.Write(o.text)
}

// writeString writes text, which is UTF-8, as a JSON string without its quotation marks.
func (o *objects) writeString(text []byte) {
	const hex = "0123456789abcdef"
	start := 0
	for i, b := range text {
		if b >= ' ' && b != '"' && b != '\\' {
			continue
		}
		o.stream.Write(text[start:i])
		start = i + 1
		escape := append(o.text[:0], '\\')
		switch b {
		case '"', '\\':
			escape = append(escape, b)
		case '\n':
			escape = append(escape, 'n')
		case '\t':
			escape = append(escape, 't')
		default:
			escape = append(escape, 'u', '0', '0', hex[b>>4], hex[b&0xf])
		}
		o.text = escape
		o.stream.Write(escape)
	}
	o.stream.Write(text[start:])
}
