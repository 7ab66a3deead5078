package consumer

import (
	"encoding/base64"
	"fmt"
	"io"
	"unicode/utf8"
)

// writeObject writes a message as an object of JSON (RFC 8259), in one line without its end, and
// without a copy of the data. The object has the attempt, unless that is 0. Errors are the
// stream's to keep.
func writeObject(stream io.Writer, message *message, attempt int) {
	fmt.Fprintf(stream, `{"id":"%s","time":"%s","topic":"`, message.id, message.time())
	writeString(stream, []byte(message.Topic))
	if utf8.Valid(message.Data) {
		io.WriteString(stream, `","data":"`)
		writeString(stream, message.Data)
	} else {
		io.WriteString(stream, `","base64":"`)
		encoder := base64.NewEncoder(base64.StdEncoding, stream)
		encoder.Write(message.Data)
		encoder.Close()
	}
	if attempt > 0 {
		fmt.Fprintf(stream, `","attempt":%d}`, attempt)
	} else {
		io.WriteString(stream, `"}`)
	}
}

// writeString writes text, which is UTF-8, as a JSON string without its quotation marks.
func writeString(stream io.Writer, text []byte) {
	const hex = "0123456789abcdef"
	var escape []byte // one for all escapes
	start := 0
	for i, b := range text {
		if b >= ' ' && b != '"' && b != '\\' {
			continue
		}
		stream.Write(text[start:i])
		start = i + 1
		switch b {
		case '"', '\\':
			escape = append(escape[:0], '\\', b)
		case '\n':
			escape = append(escape[:0], `\n`...)
		case '\t':
			escape = append(escape[:0], `\t`...)
		default:
			escape = append(escape[:0], '\\', 'u', '0', '0', hex[b>>4], hex[b&0xf])
		}
		stream.Write(escape)
	}
	stream.Write(text[start:])
}
