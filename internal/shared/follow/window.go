package follow

import (
	"bytes"
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
