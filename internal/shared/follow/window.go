package follow

import (
	"bytes"
	"context"
	"io"
)

const (
	readSize = 256 << 10 // the largest read, in bytes
	minRead  = 4 << 10   // the smallest room for a read
)

// window holds the bytes of a source that have been read and not returned.
type window struct {
	text    []byte
	line    int // the line in hand begins at text[line]
	scanned int // text[line:scanned] has no line feed
}

// cut returns the line in hand with its line feed, and makes the one after it the line in
// hand. It returns nil if the end of the line has not been read yet.
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

// rest returns those bytes of the line in hand that have been read.
func (window *window) rest() []byte {
	return window.text[window.line:]
}

// room returns free space of text to read into. The caller passes the count of bytes read to
// add.
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

// add adds the first count bytes of room to text.
func (window *window) add(count int) {
	window.text = window.text[:len(window.text)+count]
}

// Reader cuts a stream into lines. NewReader makes one. A Reader is not safe for concurrent use.
type Reader struct {
	window
	source  io.Reader
	results chan result // of the Read in progress
	reading bool        // whether a Read is in progress
	err     error       // the error of the last Read

	origin Origin // of the last line
	after  int64  // the offset after that line in its file
}

// result has the results of a Read.
type result struct {
	count int
	err   error
}

// NewReader returns a Reader of source. The Reader may read up to 256 KiB more than the lines
// that it returns. Its memory is bounded by a small multiple of 256 KiB and of the longest line.
func NewReader(source io.Reader) *Reader {
	return &Reader{source: source, results: make(chan result, 1)}
}

// Next returns the next line with its line feed, or nil if there is none at present; see
// Wait. The line is valid until the next call of Next, and the caller may change it until
// then. Any bytes after the last line feed are the last line, without a line feed. After the
// last line, Next returns the error of reading the source, io.EOF at its end.
func (reader *Reader) Next() (line []byte, err error) {
	for {
		if line := reader.cut(); line != nil {
			reader.locate(line)
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
				reader.results <- result{count, err}
			}(reader.room())
		}
		select {
		case result := <-reader.results:
			reader.take(result)
		default:
			return nil, nil
		}
	}
}

// Wait waits until there may be another line, or for the end of ctx. The end of ctx does not
// end a Read in progress.
func (reader *Reader) Wait(ctx context.Context) {
	select {
	case result := <-reader.results:
		reader.take(result)
	case <-ctx.Done():
	}
}

// take takes the results of the Read that was in progress.
func (reader *Reader) take(result result) {
	reader.reading = false
	reader.add(result.count)
	reader.err = result.err
}
