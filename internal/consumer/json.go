package consumer

import (
	"encoding/base64"
	"io"
	"strconv"
	"unicode/utf8"
)

// objects writes messages as objects of JSON (RFC 8259) to a stream, which keeps its own errors.
type objects struct {
	stream io.Writer
	text   []byte // a buffer
}

// write writes a message in one line without its end, and without a copy of its data. The object
// has the attempt, unless that is 0.
func (objects *objects) write(message *message, attempt int) {
	text := append(objects.text[:0], `{"id":"`...)
	text = append(append(text, message.id...), `","time":"`...)
	objects.text = append(message.appendTime(text), `","topic":"`...)
	objects.stream.Write(objects.text)
	objects.writeString([]byte(message.Topic))
	if utf8.Valid(message.Data) {
		objects.add(`","data":"`)
		objects.writeString(message.Data)
	} else {
		objects.add(`","base64":"`)
		encoder := base64.NewEncoder(base64.StdEncoding, objects.stream)
		encoder.Write(message.Data)
		encoder.Close()
	}
	if attempt > 0 {
		objects.add(`","attempt":` + strconv.Itoa(attempt) + "}")
	} else {
		objects.add(`"}`)
	}
}

// add writes text by way of the buffer, which costs no garbage.
func (objects *objects) add(text string) {
	objects.text = append(objects.text[:0], text...)
	objects.stream.Write(objects.text)
}

// writeString writes text, which is UTF-8, as a JSON string without its quotation marks.
func (objects *objects) writeString(text []byte) {
	const hex = "0123456789abcdef"
	start := 0
	for i, b := range text {
		if b >= ' ' && b != '"' && b != '\\' {
			continue
		}
		objects.stream.Write(text[start:i])
		start = i + 1
		escape := append(objects.text[:0], '\\')
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
		objects.text = escape
		objects.stream.Write(escape)
	}
	objects.stream.Write(text[start:])
}
