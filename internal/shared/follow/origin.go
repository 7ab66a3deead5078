package follow

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math"
	"strconv"
)

// Origin is where a line comes from. It is the same after a rename, in a copy, and in a stream of
// whole files.
type Origin struct {
	// Log is the id of the log. In a file without a header, it is the first 64 bits of the SHA-256
	// of the first line without its line feed.
	Log    uint64
	Number int64 // of the file; 0: it has no header
	Offset int64 // where the line begins in the file
}

// Append appends the Origin as LOG-FILE-OFFSET, such as 5b1b30b6c2830ccd-12-48213, to text.
func (o Origin) Append(text []byte) []byte {
	var log [8]byte
	binary.BigEndian.PutUint64(log[:], o.Log)
	text = append(hex.AppendEncode(text, log[:]), '-')
	text = append(strconv.AppendInt(text, o.Number, 10), '-')
	return strconv.AppendInt(text, o.Offset, 10)
}

// hashFirstLine returns the Log of an Origin in file, which has no header. The error is that of
// reading, io.EOF if there is no line feed.
func hashFirstLine(file io.ReaderAt) (uint64, error) {
	lines := bufio.NewReader(io.NewSectionReader(file, 0, math.MaxInt64))
	whole := sha256.New()
	for {
		piece, err := lines.ReadSlice('\n')
		whole.Write(bytes.TrimSuffix(piece, []byte("\n")))
		if err == nil {
			return binary.BigEndian.Uint64(whole.Sum(nil)), nil
		}
		if err != bufio.ErrBufferFull {
			return 0, err
		}
	}
}
