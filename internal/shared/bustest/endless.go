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
func (input *Endless) Read(buffer []byte) (int, error) {
	if len(input.rest) == 0 {
		if input.stopped.Load() {
			return 0, io.EOF
		}
		input.makeLines()
	}
	count := copy(buffer, input.rest)
	input.rest = input.rest[count:]
	input.bytes.Add(int64(count))
	return count, nil
}

// makeLines makes the next few hundred lines.
func (input *Endless) makeLines() {
	const size = 4096
	number := input.lines.Load()
	input.made = input.made[:0]
	for len(input.made) < size {
		number++
		input.made = strconv.AppendInt(input.made, number, 10)
		if !input.OneLine {
			input.made = append(input.made, '\n')
		}
	}
	input.rest = input.made
	input.lines.Store(number)
}

// Stop ends the input after a whole line, within a few thousand bytes.
func (input *Endless) Stop() {
	input.stopped.Store(true)
}

// Lines returns how many lines were made. Once Read has returned io.EOF, all of them were read.
func (input *Endless) Lines() int {
	return int(input.lines.Load())
}

// Bytes returns how many bytes were read.
func (input *Endless) Bytes() int {
	return int(input.bytes.Load())
}
