// Package logfile knows which files make up a broker's log: FILE, which has the log's name, and
// the rotated files beside it. The first line of each file, its header, says which file of which
// log it is. The broker writes that line before any other of the file:
//
//	2026/11/29 07:00:00 Broker: file 12 of log 5b1b30b6c2830ccd, after 48213 bytes of file 11: bus
//
// The header of a log's first file has no part "after":
//
//	2026/11/29 06:00:00 Broker: file 1 of log 5b1b30b6c2830ccd: bus
//
// The line begins with a time stamp, which readers ignore. The log's id has 16 hexadecimal digits.
// The number of a file has at most ten digits. The bytes are the offset after the last whole line
// of the file before. The end is the base name of FILE, escaped as package escape escapes a
// name. Only the first line of a file is a header, so a message cannot forge one.
package logfile

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"

	"mbus/internal/shared/escape"
	"mbus/internal/shared/logline"
)

const (
	// MaxNumber is the largest number of a file.
	MaxNumber = 9_999_999_999

	// maxSize is more than the number of bytes in a header: file systems allow names of
	// 255 bytes, and each byte is escaped with at most four.
	maxSize = 2 << 10
)

// Header is the content of a file's first line. The zero Header is none.
type Header struct {
	Log    uint64 // the id of the log, not 0
	Number int64  // of the file, from 1 to MaxNumber
	After  int64  // how many bytes of the file before are before this file; 0 in file 1
	Name   string // the base name of FILE
}

// NewLog returns a random id for a new log.
func NewLog() uint64 {
	return 1 + rand.Uint64N(math.MaxUint64)
}

// Append appends the first line of a file, with its time stamp and its line feed, to line, and
// returns the longer line. Parse takes the line back if header is valid.
func (h Header) Append(line []byte, when time.Time) []byte {
	line = when.AppendFormat(line, logline.StampFormat)
	return h.append(line)
}

// append is Append without the time stamp.
func (h Header) append(line []byte) []byte {
	line = fmt.Appendf(line, "Broker: file %d of log %016x", h.Number, h.Log)
	if h.Number != 1 {
		line = fmt.Appendf(line, ", after %d bytes of file %d", h.After, h.Number-1)
	}
	line = escape.AppendName(append(line, ": "...), []byte(h.Name))
	return append(line, '\n')
}

// Parse parses the first line of a file, with its line feed. It takes exactly the lines that
// Append returns for a valid header. If line is not one of them, found is false.
func Parse(line []byte) (header Header, found bool) {
	if !logline.IsStamp(line) {
		return Header{}, false
	}
	line = line[len(logline.StampFormat):]
	if !bytes.HasPrefix(line, []byte("Broker: file ")) {
		return Header{}, false // quickly, because readers of streams try each line
	}
	// Fscanf reads too much and too little, but the line that header has is compared below.
	fmt.Fscanf(bytes.NewReader(line), "Broker: file %d of log %x, after %d bytes",
		&header.Number, &header.Log, &header.After)
	before := bytes.TrimSuffix(header.append(nil), []byte("\n"))
	escaped, _ := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), before)
	name, err := escape.Unescape(nil, escaped)
	header.Name = string(name)
	isValid := err == nil && header.Log != 0 && header.After >= 0 &&
		header.Number > 0 && header.Number <= MaxNumber
	if !isValid || !bytes.Equal(header.append(nil), line) {
		return Header{}, false
	}
	return header, true
}

// LineEnd returns the offset after the last line feed of a file of size bytes, or 0 if it has
// none. The error is ErrChanged if the file has fewer bytes now.
func LineEnd(file io.ReaderAt, size int64) (int64, error) {
	block := make([]byte, min(size, 64<<10))
	for end := size; end > 0; {
		part := block[:min(end, int64(len(block)))]
		start := end - int64(len(part))
		if err := ReadFull(file, part, start); err != nil {
			return 0, err
		}
		if at := bytes.LastIndexByte(part, '\n'); at >= 0 {
			return start + int64(at) + 1, nil
		}
		end = start
	}
	return 0, nil
}

// ReadFull fills buffer with the bytes of file at offset. The error is ErrChanged if the file has
// fewer bytes.
func ReadFull(file io.ReaderAt, buffer []byte, offset int64) error {
	count, err := file.ReadAt(buffer, offset)
	switch {
	case count == len(buffer):
		return nil
	case err == io.EOF:
		return ErrChanged
	}
	return err
}
