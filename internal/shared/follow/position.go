package follow

import (
	"crypto/sha256"
	"io"
)

// contextSize is how many bytes identify a position: so many before it, and so many at the
// start of its file.
const contextSize = 1 << 10

// Position is a place between two lines of a log. The bytes before a position identify it, not
// the name or the inode of its file. So it can be found after the file was renamed or copied.
// It is not found in a file that was truncated and has grown again. The zero Position is the
// start of the oldest file.
type Position struct {
	// Offset is how many bytes of its file are before the position.
	Offset int64

	// Hash is the first half of a SHA-256: of the first KiB of those bytes, or
	// all, followed by the last KiB, or all. It is zero at offset 0.
	Hash [sha256.Size / 2]byte

	// Time is in Unix nanoseconds. It is used only at offset 0, which every file
	// has: files that were modified before Time are before the position. Time is a
	// file's modification time, which the clock is some milliseconds ahead of.
	Time int64
}

// positionAfter returns the position at offset. Its file begins with head, and tail ends at
// the position. Each has contextSize bytes, or offset if that is less.
func positionAfter(offset int64, head, tail []byte) Position {
	position := Position{Offset: offset}
	hash := sha256.New()
	hash.Write(head)
	hash.Write(tail)
	copy(position.Hash[:], hash.Sum(nil))
	return position
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

// readAround returns the bytes of file that identify a position at offset. The error is
// io.EOF if file has fewer bytes.
func readAround(file io.ReaderAt, offset int64) (head, tail []byte, err error) {
	size := min(offset, contextSize)
	head, tail = make([]byte, size), make([]byte, size)
	if count, err := file.ReadAt(head, 0); count < len(head) {
		return nil, nil, err
	}
	if count, err := file.ReadAt(tail, offset-size); count < len(tail) {
		return nil, nil, err
	}
	return head, tail, nil
}
