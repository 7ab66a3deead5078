package follow

import (
	"crypto/sha256"
	"io"
)

// contextSize is how many bytes before a position, and at the start of its file, it is
// known by.
const contextSize = 1 << 10

// Position is a place in a log, at the end of a line. It is known by the bytes that
// are before it, not by the name or the inode of its file, so that it is found again
// when the file has been renamed or copied, and not found where the file has been
// truncated and has grown again. The zero Position is the start of the oldest file.
type Position struct {
	// Offset is how many bytes of its file are before the position.
	Offset int64

	// Hash is half the SHA-256 of those bytes: of the first contextSize, and
	// again of the last. It is zero at offset 0.
	Hash [sha256.Size / 2]byte

	// Time is in Unix nanoseconds, and used at offset 0 alone, which every file
	// has: files that were last changed before it are before the position. It
	// is the time of a file, not of the clock, which is ahead of those by some
	// milliseconds.
	Time int64
}

// positionAfter returns the position at offset after the bytes head, which start
// the file, and tail, which end there; each has contextSize bytes or all.
func positionAfter(offset int64, head, tail []byte) Position {
	position := Position{Offset: offset}
	hash := sha256.New()
	hash.Write(head)
	hash.Write(tail)
	copy(position.Hash[:], hash.Sum(nil))
	return position
}

// appendContext appends text to context, of which it keeps the last contextSize bytes.
func appendContext(context, text []byte) []byte {
	if len(text) >= contextSize {
		return append(context[:0], text[len(text)-contextSize:]...)
	}
	if more := len(context) + len(text) - contextSize; more > 0 {
		context = context[:copy(context, context[more:])]
	}
	return append(context, text...)
}

// readAround returns the bytes of file that identify a position at offset; err is
// io.EOF where the file is shorter.
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
