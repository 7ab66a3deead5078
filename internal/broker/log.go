package broker

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
	"unicode/utf8"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
	"mbus/internal/shared/osfile"
)

const (
	// gatherSize is how many bytes of lines are collected before they are written.
	gatherSize = 64 << 10

	// fileWrite is the largest write to a regular file, in bytes.
	fileWrite = 4 * gatherSize

	// pipeWrite is the largest write to any other file, in bytes. A pipe accepts that many
	// bytes together or none of them (pipe(7), PIPE_BUF). So the lines of several writers
	// don't mix, and each write that ends shows that the reader is alive.
	pipeWrite = 4 << 10
)

// stampFormat is the format of a line's time stamp, which is that of the standard log package.
const stampFormat = "2006/01/02 15:04:05 "

// logWriter writes lines, in the format of the standard log package, to a writer that may fail
// and may write only a part of its input. The rest stays in the buffer, and the next write
// begins with it, so no line is torn or repeated. Only one goroutine may use a logWriter, but
// any may receive from progress.
type logWriter struct {
	writer   io.Writer
	regular  bool   // the writer is a regular file
	maxWrite int    // the largest write, in bytes
	buffer   []byte // lines that are not written yet
	lines    int    // how many were written whole since writeTaken set it to 0

	unfinished bool   // the last line in the buffer is not whole
	rest       []byte // the rest of that line's data

	second int64  // the Unix time of stamp
	stamp  []byte // the last time stamp

	progress chan struct{} // signalled after each write of at least a byte
}

// start prepares log to write to writer.
func (log *logWriter) start(writer io.Writer) {
	log.writer, log.maxWrite = writer, pipeWrite
	log.progress = make(chan struct{}, 1)
	switch writer := writer.(type) {
	case *os.File:
		info, err := writer.Stat()
		log.regular = err == nil && info.Mode().IsRegular()
	case *store:
		log.regular = true
	}
	if log.regular {
		log.maxWrite = fileWrite
	}
}

// appendTime appends the time stamp of a new line to the buffer.
func (log *logWriter) appendTime(when time.Time) {
	if second := when.Unix(); second != log.second || log.stamp == nil {
		log.second = second
		log.stamp = when.AppendFormat(log.stamp[:0], stampFormat)
	}
	log.buffer = append(log.buffer, log.stamp...)
}

// notice appends a notice's line to the buffer, and writes the buffer if it is full.
func (log *logWriter) notice(notice *notice) error {
	log.appendTime(notice.when)
	log.buffer = append(notice.append(log.buffer), '\n')
	return log.flushFull()
}

// message appends a message's line to the buffer, and writes the buffer if it is full. After
// an error, finish appends the rest of the line.
func (log *logWriter) message(when time.Time, message *apiv1.Message) error {
	log.appendTime(when)
	log.buffer = append(log.buffer, "Received new message from topic '"...)
	log.buffer = escape.AppendName(log.buffer, []byte(message.Topic))
	log.buffer = append(log.buffer, "': '"...)
	log.rest, log.unfinished = message.Data, true
	return log.finish()
}

// finish appends the rest of an unfinished line to the buffer, and writes the buffer if it is
// full. To bound the memory, it appends the line in parts, and none while the buffer is full: a
// line is up to four times as long as its data.
func (log *logWriter) finish() error {
	for log.unfinished {
		if err := log.flushFull(); err != nil {
			return err
		}
		part := firstPart(log.rest)
		log.buffer = escape.Append(log.buffer, part)
		log.rest = log.rest[len(part):]
		if len(log.rest) == 0 {
			log.buffer = append(log.buffer, "'\n"...)
			log.unfinished = false
		}
	}
	return log.flushFull()
}

// firstPart returns the first gatherSize bytes of text, or a few less so that no character is
// cut.
func firstPart(text []byte) []byte {
	if len(text) <= gatherSize {
		return text
	}
	end := gatherSize
	for end > gatherSize-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// flushFull writes the buffer if it has gatherSize bytes.
func (log *logWriter) flushFull() error {
	if len(log.buffer) < gatherSize {
		return nil
	}
	return log.flush()
}

// flush writes the buffer, and keeps the bytes that were not written. Each write ends with the
// end of a line if it has one, so that several writers on one pipe or file don't cut each
// other's lines. The beginning of an unfinished line stays in the buffer unless it fills a
// write.
func (log *logWriter) flush() error {
	var err error
	written := 0
	for written < len(log.buffer) && err == nil {
		piece := log.buffer[written:min(written+log.maxWrite, len(log.buffer))]
		if end := bytes.LastIndexByte(piece, '\n'); end >= 0 {
			piece = piece[:end+1]
		} else if len(piece) < log.maxWrite {
			break // the beginning of an unfinished line
		}
		var taken int
		if taken, err = log.writer.Write(piece); taken > 0 {
			written += taken
			log.lines += bytes.Count(piece[:taken], []byte{'\n'})
			wakeUp(log.progress)
		}
		if taken < len(piece) && err == nil {
			err = io.ErrShortWrite
		}
	}
	log.buffer = append(log.buffer[:0], log.buffer[written:]...)
	return err
}

// reset discards the buffer and the unfinished line.
func (log *logWriter) reset() {
	log.buffer, log.rest, log.unfinished = log.buffer[:0], nil, false
}

// isPermanent reports whether no later write can succeed after err: the log is a pipe without a
// reader, a terminal that hung up (EIO), a closed file, or a file that could not be synced.
func (log *logWriter) isPermanent(err error) bool {
	return errors.Is(err, osfile.ErrNotOnDisk) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EBADF) ||
		errors.Is(err, syscall.EIO) && !log.regular ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}
