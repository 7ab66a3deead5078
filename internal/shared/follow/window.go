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
	line    int // the next line begins at text[line]
	scanned int // text[line:scanned] has no line feed
}

// cut returns the next line with its line feed, or nil if its line feed has not been read yet.
func (w *window) cut() []byte {
	length := bytes.IndexByte(w.text[w.scanned:], '\n')
	if length < 0 {
		w.scanned = len(w.text)
		return nil
	}
	end := w.scanned + length + 1
	line := w.text[w.line:end]
	w.line, w.scanned = end, end
	return line
}

// rest returns the bytes of the next line that have been read.
func (w *window) rest() []byte {
	return w.text[w.line:]
}

// room returns free space of text to read into. The caller passes the count of bytes read to
// add.
func (w *window) room() []byte {
	rest := w.rest()
	if w.line > len(rest) || w.line > 0 && cap(w.text)-len(w.text) < minRead {
		w.text = append(w.text[:0], rest...)
		w.scanned -= w.line
		w.line = 0
	}
	if cap(w.text)-len(w.text) < minRead {
		grown := make([]byte, len(w.text), max(readSize, 2*cap(w.text)))
		copy(grown, w.text)
		w.text = grown
	}
	size := min(cap(w.text)-len(w.text), readSize)
	return w.text[len(w.text) : len(w.text)+size]
}

// add adds the first count bytes of room to text.
func (w *window) add(count int) {
	w.text = w.text[:len(w.text)+count]
}

// Reader cuts a stream into lines. NewReader makes one. A Reader is not safe for concurrent use.
type Reader struct {
	window
	source  io.Reader
	report  func(line string)
	results chan result // of the Read in progress; nil: there is none
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
// Next calls report with a line when the stream goes on with another place of the same log than
// the next.
func NewReader(source io.Reader, report func(line string)) *Reader {
	return &Reader{source: source, report: report}
}

// Next returns the next line with its line feed, or nil if there is none at present; see
// Wait. The line is valid until the next call of Next, and the caller may change it until
// then. Any bytes after the last line feed are the last line, without a line feed. After the
// last line, Next returns the error of reading the source, io.EOF at its end.
func (r *Reader) Next() (line []byte, err error) {
	for {
		if line := r.cut(); line != nil {
			r.locate(line)
			return line, nil
		}
		if r.err != nil {
			if torn := r.rest(); len(torn) > 0 {
				r.line = len(r.text)
				return torn, nil
			}
			return nil, r.err
		}
		if r.results == nil {
			r.results = make(chan result, 1)
			go read(r.source, r.room(), r.results)
		}
		select {
		case result := <-r.results:
			r.take(result)
		default:
			return nil, nil
		}
	}
}

// Wait waits until there may be another line, or for the end of ctx. The end of ctx does not
// end a Read in progress.
func (r *Reader) Wait(ctx context.Context) {
	select {
	case result := <-r.results:
		r.take(result)
	case <-ctx.Done():
	}
}

// take takes the results of the Read that was in progress.
func (r *Reader) take(result result) {
	r.results = nil
	r.add(result.count)
	r.err = result.err
}

// read sends the results of one Read.
func read(source io.Reader, room []byte, results chan<- result) {
	count, err := source.Read(room)
	results <- result{count, err}
}
