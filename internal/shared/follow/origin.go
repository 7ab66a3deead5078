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

	"mbus/internal/shared/logfile"
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
func (origin Origin) Append(text []byte) []byte {
	var log [8]byte
	binary.BigEndian.PutUint64(log[:], origin.Log)
	text = append(hex.AppendEncode(text, log[:]), '-')
	text = append(strconv.AppendInt(text, origin.Number, 10), '-')
	return strconv.AppendInt(text, origin.Offset, 10)
}

// Origin returns where the line comes from that the last call of Next has returned. The error is
// that of reading the first line of its file.
func (follower *Follower) Origin() (Origin, error) {
	if header := follower.header; header.Log != 0 {
		return Origin{header.Log, header.Number, follower.begun}, nil
	}
	if follower.firstLine == 0 {
		var err error
		if follower.firstLine, err = hashFirstLine(follower.file); err != nil {
			return Origin{}, err
		}
	}
	return Origin{Log: follower.firstLine, Offset: follower.begun}, nil
}

// Before returns the position before the line that the last call of Next has returned.
func (follower *Follower) Before() (Position, error) {
	head, tail, err := readAround(follower.file, follower.begun)
	if err != nil {
		return Position{}, err
	}
	return Position{
		Log: follower.header.Log, Number: follower.header.Number, Offset: follower.begun,
		Hash: hash(head, tail),
	}, nil
}

// hashFirstLine returns the Log of an Origin in file, which has no header.
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

// Origin returns where the line comes from that the last call of Next has returned. The stream
// counts as one file without a header until a header begins a file. The error is always nil.
func (reader *Reader) Origin() (Origin, error) {
	return reader.origin, nil
}

// locate sets the origin to that of line, the next of the stream.
func (reader *Reader) locate(line []byte) {
	header, isHeader := logfile.Parse(line)
	switch {
	case isHeader:
		reader.origin = Origin{Log: header.Log, Number: header.Number}
	case reader.after == 0: // so it is the first line
		sum := sha256.Sum256(bytes.TrimSuffix(line, []byte("\n")))
		reader.origin = Origin{Log: binary.BigEndian.Uint64(sum[:])}
	default:
		reader.origin.Offset = reader.after
	}
	reader.after = reader.origin.Offset + int64(len(line))
}
