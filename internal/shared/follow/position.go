package follow

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"mbus/internal/shared/logfile"
)

// contextSize is how many bytes identify a position: so many before it, and so many at the
// start of its file.
const contextSize = 1 << 10

// Position is a place between two lines of a log. The zero Position is the start of the oldest
// file. A position in a file without a header has Log 0 and Number 1. So has one from a state of an
// earlier version, wherever it is: the bytes before these positions identify them.
type Position struct {
	Log    uint64 // the id of the log; 0: it is not known
	Number int64  // of the file
	Offset int64  // how many bytes of the file are before the position

	// Hash is the first half of a SHA-256: of the first KiB of those bytes, or all, followed
	// by the last KiB, or all. It is zero at offset 0.
	Hash [sha256.Size / 2]byte
}

// String returns the place in words.
func (p Position) String() string {
	switch {
	case p.Log == 0 && p.Offset == 0:
		return "the start of the log"
	case p.Log == 0:
		return fmt.Sprintf("offset %d of a file without a number", p.Offset)
	}
	return fmt.Sprintf("offset %d of file %d of log %016x", p.Offset, p.Number, p.Log)
}

// hash returns the Hash of a position. Its file begins with head, and tail ends at the position.
// Each has contextSize bytes, or all before the position.
func hash(head, tail []byte) (sum [sha256.Size / 2]byte) {
	if len(tail) > 0 {
		whole := sha256.Sum256(slices.Concat(head, tail))
		copy(sum[:], whole[:])
	}
	return sum
}

// appendContext appends text to recent, and returns at least the last contextSize bytes of
// both. Most calls do not move the bytes of recent.
func appendContext(recent, text []byte) []byte {
	if len(text) >= contextSize {
		return append(recent[:0], text[len(text)-contextSize:]...)
	}
	if len(recent) > contextSize && len(recent)+len(text) > cap(recent) {
		recent = recent[:copy(recent, recent[len(recent)-contextSize:])]
	}
	return append(recent, text...)
}

// readAround returns the bytes of file that identify a position at offset.
func readAround(file io.ReaderAt, offset int64) (head, tail []byte, err error) {
	size := min(offset, contextSize)
	head, tail = make([]byte, size), make([]byte, size)
	if err := logfile.ReadFull(file, head, 0); err != nil {
		return nil, nil, err
	}
	return head, tail, logfile.ReadFull(file, tail, offset-size)
}
