package consumer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// outputSize is the largest write of more than one message, in bytes, and the largest part
	// of a message that is encoded at a time.
	outputSize = 64 << 10

	// minBlocked and maxBlocked limit the pause before the next try to write to a stream that
	// takes nothing.
	minBlocked = time.Millisecond
	maxBlocked = 50 * time.Millisecond
)

// output delivers messages to a stream. Each write ends with the end of a message, if one ends in
// it. After an error of the stream, each call returns the same error.
type output struct {
	file   *os.File
	format string
	buffer []byte // what is not written yet
	whole  int    // how many bytes of buffer are whole messages
	start  []byte // of the last object; a buffer
	err    error
}

func newOutput(file *os.File, format string) *output {
	return &output{file: file, format: format, buffer: make([]byte, 0, outputSize)}
}

// deliver writes one message.
func (output *output) deliver(_ context.Context, message *message) error {
	if output.format == JSON {
		output.addObject(message)
	} else {
		output.add(message.Data)
	}
	switch output.format {
	case Raw:
	case NUL:
		output.add([]byte{0})
	default:
		output.add([]byte{'\n'})
	}
	output.whole = len(output.buffer)
	return output.err
}

// flush writes the buffer. If durable is true and the stream is a regular file, it syncs the
// file. A pipe can't be synced.
func (output *output) flush(durable bool) error {
	output.write(len(output.buffer))
	if output.err == nil && durable {
		info, err := output.file.Stat()
		if err == nil && info.Mode().IsRegular() {
			err = output.file.Sync()
		}
		output.fail(err)
	}
	return output.err
}

// fail keeps an error of the stream.
func (output *output) fail(err error) {
	if err != nil && output.err == nil {
		output.err = fmt.Errorf("standard output: %w", err)
	}
}

// add adds text to the buffer. When the buffer is full, it writes the whole messages in it or, if
// there are none, all of it.
func (output *output) add(text []byte) {
	for output.err == nil {
		count := copy(output.buffer[len(output.buffer):cap(output.buffer)], text)
		output.buffer = output.buffer[:len(output.buffer)+count]
		if text = text[count:]; len(text) == 0 {
			return
		}
		if output.whole > 0 {
			output.write(output.whole)
		} else {
			output.write(len(output.buffer))
		}
	}
}

// write writes the first count bytes of the buffer. Another process that has the same stream may
// have made it non-blocking: then write waits until the stream takes more.
func (output *output) write(count int) {
	for text, pause := output.buffer[:count], minBlocked; output.err == nil && len(text) > 0; {
		written, err := output.file.Write(text)
		text = text[written:]
		switch {
		case !errors.Is(err, syscall.EAGAIN):
			output.fail(err)
		case written > 0:
			pause = minBlocked
		default:
			time.Sleep(pause)
			pause = min(2*pause, maxBlocked)
		}
	}
	output.buffer = output.buffer[:copy(output.buffer, output.buffer[count:])]
	output.whole = 0
}

// addObject adds a message as an object of JSON (RFC 8259), without a copy of its data.
func (output *output) addObject(message *message) {
	start := append(output.start[:0], `{"id":"`...)
	start = append(append(start, message.id...), `","time":"`...)
	output.start = append(message.appendTime(start), `","topic":"`...)
	output.add(output.start)
	output.addString([]byte(message.Topic))
	if utf8.Valid(message.Data) {
		output.add([]byte(`","data":"`))
		output.addString(message.Data)
	} else {
		output.add([]byte(`","base64":"`))
		encoder := base64.NewEncoder(base64.StdEncoding, adder{output})
		encoder.Write(message.Data)
		encoder.Close()
	}
	output.add([]byte(`"}`))
}

// adder is the io.Writer that adds to an output.
type adder struct{ output *output }

var _ io.Writer = adder{}

func (adder adder) Write(text []byte) (int, error) {
	adder.output.add(text)
	return len(text), adder.output.err
}

// addString adds text, which is UTF-8, as a JSON string without its quotation marks.
func (output *output) addString(text []byte) {
	const hex = "0123456789abcdef"
	start := 0
	for i, b := range text {
		if b >= ' ' && b != '"' && b != '\\' {
			continue
		}
		output.add(text[start:i])
		start = i + 1
		switch b {
		case '"', '\\':
			output.add([]byte{'\\', b})
		case '\n':
			output.add([]byte(`\n`))
		case '\t':
			output.add([]byte(`\t`))
		default:
			output.add([]byte{'\\', 'u', '0', '0', hex[b>>4], hex[b&0xf]})
		}
	}
	output.add(text[start:])
}
