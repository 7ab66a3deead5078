package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
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
	stream *os.File
	format string
	buffer []byte // what is not written yet
	whole  int    // how many bytes of buffer are whole messages
	err    error

	objects objects // that are written to the output
}

func newOutput(stream *os.File, format string) *output {
	o := &output{stream: stream, format: format, buffer: make([]byte, 0, outputSize)}
	o.objects.stream = o
	return o
}

// deliver writes one message.
func (o *output) deliver(m message) error {
	if o.format == JSON {
		o.objects.write(m, 0)
	} else {
		o.Write(m.Data)
	}
	switch o.format {
	case Raw:
	case NUL:
		o.Write([]byte{0})
	default:
		o.Write([]byte{'\n'})
	}
	o.whole = len(o.buffer)
	return o.err
}

// flush writes the buffer to the stream. If durable is true and the stream is a regular file, it
// syncs the file. A pipe can't be synced.
func (o *output) flush(durable bool) error {
	o.empty(len(o.buffer))
	if o.err == nil && durable {
		info, err := o.stream.Stat()
		if err == nil && info.Mode().IsRegular() {
			err = o.stream.Sync()
		}
		o.fail(err)
	}
	return o.err
}

// fail keeps an error of the stream.
func (o *output) fail(err error) {
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("standard output: %w", err)
	}
}

// Write adds text to the buffer. When the buffer is full, it empties the buffer of the whole
// messages in it or, if there are none, of everything.
func (o *output) Write(text []byte) (int, error) {
	for rest := text; o.err == nil; {
		count := copy(o.buffer[len(o.buffer):cap(o.buffer)], rest)
		o.buffer = o.buffer[:len(o.buffer)+count]
		if rest = rest[count:]; len(rest) == 0 {
			break
		}
		o.empty(cmp.Or(o.whole, len(o.buffer)))
	}
	return len(text), o.err
}

// empty writes the first count bytes of the buffer to the stream, and removes them. Another process
// that has the same stream may have made it non-blocking: then empty waits until the stream takes
// more.
func (o *output) empty(count int) {
	for text, pause := o.buffer[:count], minBlocked; o.err == nil && len(text) > 0; {
		written, err := o.stream.Write(text)
		text = text[written:]
		switch {
		case !errors.Is(err, syscall.EAGAIN):
			o.fail(err)
		case written > 0:
			pause = minBlocked
		default:
			time.Sleep(pause)
			pause = min(2*pause, maxBlocked)
		}
	}
	o.buffer = o.buffer[:copy(o.buffer, o.buffer[count:])]
	o.whole = 0
}
