package follow

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"mbus/internal/shared/logfile"
)

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

// Origin returns where the line comes from that the last call of Next has returned. The stream
// counts as one file without a header until a header begins a file. The error is always nil.
func (r *Reader) Origin() (Origin, error) {
	return r.origin, nil
}

// locate sets the origin to that of line, the next of the stream.
func (r *Reader) locate(line []byte) {
	header, isHeader := logfile.Parse(line)
	switch {
	case isHeader:
		r.checkNext(header)
		r.origin = Origin{Log: header.Log, Number: header.Number}
	case r.after == 0: // so it is the first line
		first, _ := hashFirstLine(bytes.NewReader(line)) // which has a line feed
		r.origin = Origin{Log: first}
	default:
		r.origin.Offset = r.after
	}
	r.after = r.origin.Offset + int64(len(line))
}

// checkNext reports a file of the same log that does not begin where the stream has come to.
func (r *Reader) checkNext(header logfile.Header) {
	last := r.origin
	isNext := header.Number == last.Number+1 && header.After == r.after
	if last.Number == 0 || header.Log != last.Log || isNext {
		return
	}
	text := fmt.Sprintf("after %d bytes of file %d comes file %d",
		r.after, last.Number, header.Number)
	if header.Number > 1 {
		text += fmt.Sprintf(", which follows %d bytes of file %d", header.After, header.Number-1)
	}
	r.report(text + ": lines are missing, repeated or out of order")
}
