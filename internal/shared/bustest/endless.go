package bustest

import (
	"io"
	"strconv"
	"sync/atomic"
)

// Endless is an input of numbered lines, the first of which is "1\n". It ends after a call of
// Stop. The zero value is ready to use. One goroutine may call Read while others call
// the other methods.
type Endless struct {
	OneLine bool // leave out the line feeds, so there is one endless line

	rest    []byte // the lines that are made but not read
	made    []byte // the memory of rest
	lines   atomic.Int64
	bytes   atomic.Int64
	stopped atomic.Bool
}

// Read implements io.Reader. It never blocks. After Stop it returns the rest of the lines that
// are made, and then io.EOF.
func (e *Endless) Read(buffer []byte) (int, error) {
	if len(e.rest) == 0 {
		if e.stopped.Load() {
			return 0, io.EOF
		}
		e.makeLines()
	}
	count := copy(buffer, e.rest)
	e.rest = e.rest[count:]
	e.bytes.Add(int64(count))
	return count, nil
}

// makeLines makes the next few hundred lines.
func (e *Endless) makeLines() {
	const size = 4096
	number := e.lines.Load()
	e.made = e.made[:0]
	for len(e.made) < size {
		number++
		e.made = strconv.AppendInt(e.made, number, 10)
		if !e.OneLine {
			e.made = append(e.made, '\n')
		}
	}
	e.rest = e.made
	e.lines.Store(number)
}

// Stop ends the input after a whole line, within a few thousand bytes.
func (e *Endless) Stop() {
	e.stopped.Store(true)
}

// Lines returns how many lines were made. Once Read has returned io.EOF, all of them were read.
func (e *Endless) Lines() int {
	return int(e.lines.Load())
}

// Bytes returns how many bytes were read.
func (e *Endless) Bytes() int {
	return int(e.bytes.Load())
}
