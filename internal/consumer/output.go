package consumer

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"os"
	"unicode/utf8"
)

// outputSize is the size of the buffer, in bytes.
const outputSize = 256 << 10

// output delivers messages to a stream. After an error of the stream, each call returns the same
// error.
type output struct {
	file   *os.File
	stream *bufio.Writer // to file
	format string
}

func newOutput(file *os.File, format string) *output {
	return &output{file, bufio.NewWriterSize(file, outputSize), format}
}

// deliver writes one message. Only the last write's error is checked: a bufio.Writer returns
// its first error from each later write.
func (output *output) deliver(message *message) error {
	switch output.format {
	case JSON:
		return wrapOutput(writeObject(output.stream, message, 0))
	case Raw:
		_, err := output.stream.Write(message.Data)
		return wrapOutput(err)
	}
	end := byte('\n')
	if output.format == NUL {
		end = 0
	}
	output.stream.Write(message.Data)
	return wrapOutput(output.stream.WriteByte(end))
}

// flush writes the buffer. If durable is true and the stream is a regular file, it syncs the
// file. A pipe can't be synced.
func (output *output) flush(durable bool) error {
	err := output.stream.Flush()
	if err == nil && durable {
		info, statErr := output.file.Stat()
		if err = statErr; err == nil && info.Mode().IsRegular() {
			err = output.file.Sync()
		}
	}
	return wrapOutput(err)
}

func wrapOutput(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("standard output: %w", err)
}

// writeObject writes a message as one line of JSON (RFC 8259), without a copy of its data. The
// object has the attempt, unless that is 0.
func writeObject(stream *bufio.Writer, message *message, attempt int) error {
	fmt.Fprintf(stream, `{"id":"%s","time":"%s","topic":"`, message.id, message.time())
	writeString(stream, []byte(message.Topic))
	if utf8.Valid(message.Data) {
		stream.WriteString(`","data":"`)
		writeString(stream, message.Data)
	} else {
		stream.WriteString(`","base64":"`)
		encoder := base64.NewEncoder(base64.StdEncoding, stream)
		encoder.Write(message.Data)
		encoder.Close()
	}
	if attempt > 0 {
		fmt.Fprintf(stream, `","attempt":%d}`, attempt)
	} else {
		stream.WriteString(`"}`)
	}
	return stream.WriteByte('\n')
}

// writeString writes text, which is UTF-8, as a JSON string without its quotation marks.
func writeString(stream *bufio.Writer, text []byte) {
	start := 0
	for i, b := range text {
		if b >= ' ' && b != '"' && b != '\\' {
			continue
		}
		stream.Write(text[start:i])
		start = i + 1
		switch b {
		case '"', '\\':
			stream.Write([]byte{'\\', b})
		case '\n':
			stream.WriteString(`\n`)
		case '\t':
			stream.WriteString(`\t`)
		default:
			fmt.Fprintf(stream, `\u%04x`, b)
		}
	}
	stream.Write(text[start:])
}
