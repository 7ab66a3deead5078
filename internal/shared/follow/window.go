package follow

import (
	"bytes"
	"context"
	"io"
)

const (
	// readSize is how many bytes are read at once, at the most, and minRead
	// for how many there is room at the least.
	readSize = 256 << 10
	minRead  = 4 << 10
)

// window is the part of a source that has been read and not returned.
type window struct {
	text    []byte
	line    int // where the line in hand begins in text
	scanned int // where the next line feed is looked for
}

// cut returns the line in hand with its line feed, and goes on to the one after
// it; nil: its end has not been read yet.
func (window *window) cut() []byte {
	length := bytes.IndexByte(window.text[window.scanned:], '\n')
	if length < 0 {
		window.scanned = len(window.text)
		return nil
	}
	end := window.scanned + length + 1
	line := window.text[window.line:end]
	window.line, window.scanned = end, end
	return line
}

// rest returns what has been read of the line in hand.
func (window *window) rest() []byte {
	return window.text[window.line:]
}

// room returns where the source is to be read into; add says how much was.
func (window *window) room() []byte {
	rest := len(window.text) - window.line
	if window.line > rest || window.line > 0 && cap(window.text)-len(window.text) < minRead {
		copy(window.text, window.text[window.line:])
		window.text = window.text[:rest]
		window.scanned -= window.line
		window.line = 0
	}
	if cap(window.text)-len(window.text) < minRead {
		grown := make([]byte, len(window.text), max(readSize, 2*cap(window.text)))
		copy(grown, window.text)
		window.text = grown
	}
	size := min(cap(window.text)-len(window.text), readSize)
	return window.text[len(window.text) : len(window.text)+size]
}

// add takes the first count bytes of room.
func (window *window) add(count int) {
	window.text = window.text[:len(window.text)+count]
}

// Reader cuts a stream into lines. Its zero value is of no use; see NewReader. It
// must not be used from several goroutines at once.
type Reader struct {
	window
	source  io.Reader
	answers chan answer // of the Read that is under way
	reading bool
	err     error // that of the source's last Read
}

// answer is what a Read returned.
type answer struct {
	count int
	err   error
}

// NewReader returns a Reader of source, which it may read ahead of the lines that
// it returns, by up to 256 KiB. Memory is bounded by a small multiple of that and
// of the longest line.
func NewReader(source io.Reader) *Reader {
	return &Reader{source: source, answers: make(chan answer, 1)}
}

// Next returns the next line with its line feed, or nil if there is none at
// present. Bytes after the last line feed come last, without one. Then the error is
// that of reading, io.EOF at the source's end. The line is valid until the next
// call; until then it may be changed.
func (reader *Reader) Next() (line []byte, err error) {
	for {
		if line := reader.cut(); line != nil {
			return line, nil
		}
		if reader.err != nil {
			if torn := reader.rest(); len(torn) > 0 {
				reader.line = len(reader.text)
				return torn, nil
			}
			return nil, reader.err
		}
		if !reader.reading {
			reader.reading = true
			go func(room []byte) {
				count, err := reader.source.Read(room)
				reader.answers <- answer{count, err}
			}(reader.room())
		}
		select {
		case answer := <-reader.answers:
			reader.take(answer)
		default:
			return nil, nil
		}
	}
}

// Wait waits until there may be another line, or for the end of ctx. A Read that is
// under way then goes on.
func (reader *Reader) Wait(ctx context.Context) {
	select {
	case answer := <-reader.answers:
		reader.take(answer)
	case <-ctx.Done():
	}
}

// take ends the Read that was under way.
func (reader *Reader) take(answer answer) {
	reader.reading = false
	reader.add(answer.count)
	reader.err = answer.err
}
