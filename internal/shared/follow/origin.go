package follow

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
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
func (o Origin) Append(text []byte) []byte {
	var log [8]byte
	binary.BigEndian.PutUint64(log[:], o.Log)
	text = append(hex.AppendEncode(text, log[:]), '-')
	text = append(strconv.AppendInt(text, o.Number, 10), '-')
	return strconv.AppendInt(text, o.Offset, 10)
}

// Origin returns where the line comes from that the last call of Next has returned. The error is
// that of reading the first line of its file.
func (f *Follower) Origin() (Origin, error) {
	c := f.current
	if header := c.from.Header; header.Log != 0 {
		return Origin{header.Log, header.Number, c.begun}, nil
	}
	if c.firstLine == 0 {
		var err error
		if c.firstLine, err = hashFirstLine(c.file); err != nil {
			return Origin{}, err
		}
	}
	return Origin{Log: c.firstLine, Offset: c.begun}, nil
}

// Before returns the position before the line that the last call of Next has returned.
func (f *Follower) Before() (Position, error) {
	return f.current.positionAt(f.current.begun)
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
		sum := sha256.Sum256(bytes.TrimSuffix(line, []byte("\n")))
		r.origin = Origin{Log: binary.BigEndian.Uint64(sum[:])}
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
