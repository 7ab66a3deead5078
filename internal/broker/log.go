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
	// gatherSize is how many bytes of lines are gathered for one write.
	gatherSize = 64 << 10

	// fileWrite is how many bytes are written at once to a regular file at most.
	fileWrite = 4 * gatherSize

	// pipeWrite is the same for anything else. A pipe takes as many at once or
	// none (pipe(7), PIPE_BUF), so lines of several writers don't mix, and a
	// reader that is slow can be told from one that is gone.
	pipeWrite = 4 << 10
)

// stampFormat is how a line begins: as with the standard log package.
const stampFormat = "2006/01/02 15:04:05 "

// logWriter writes whole lines, in the format of the standard log package, to a
// writer that may fail and may take a part of what it is given. What was not taken
// stays in the buffer and is written first the next time, so that no line is torn
// or repeated. It belongs to one goroutine, except for progress.
type logWriter struct {
	writer   io.Writer
	regular  bool   // the writer is a regular file
	maxWrite int    // bytes that are written at once
	buffer   []byte // lines that are not taken yet
	lines    int    // that were taken whole, and that writeTaken has not counted yet

	unfinished bool   // the line that ends the buffer has no end yet ...
	rest       []byte // ... and this is what is left of its data

	second int64  // the Unix time ...
	stamp  []byte // ... of this time stamp

	progress chan struct{} // signalled when bytes were taken
}

// start prepares log for writing to writer.
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

// appendTime starts a line.
func (log *logWriter) appendTime(when time.Time) {
	if second := when.Unix(); second != log.second || log.stamp == nil {
		log.second = second
		log.stamp = when.AppendFormat(log.stamp[:0], stampFormat)
	}
	log.buffer = append(log.buffer, log.stamp...)
}

// notice adds a notice's line to the buffer, and writes if that is enough.
func (log *logWriter) notice(notice *notice) error {
	log.appendTime(notice.when)
	log.buffer = append(notice.append(log.buffer), '\n')
	return log.flushFull()
}

// message adds a message's line to the buffer, and writes if that is enough. After
// an error, finish adds what is missing of the line.
func (log *logWriter) message(when time.Time, message *apiv1.Message) error {
	log.appendTime(when)
	log.buffer = append(log.buffer, "Received new message from topic '"...)
	log.buffer = escape.AppendName(log.buffer, []byte(message.Topic))
	log.buffer = append(log.buffer, "': '"...)
	log.rest, log.unfinished = message.Data, true
	return log.finish()
}

// finish adds what is missing of an unfinished line, a part at a time: a line is up
// to four times as long as its data, and memory is bounded.
func (log *logWriter) finish() error {
	for log.unfinished {
		part := firstPart(log.rest)
		log.buffer = escape.Append(log.buffer, part)
		log.rest = log.rest[len(part):]
		if len(log.rest) == 0 {
			log.buffer = append(log.buffer, "'\n"...)
			log.unfinished = false
		}
		if err := log.flushFull(); err != nil {
			return err
		}
	}
	return nil
}

// firstPart returns text, or about its first gatherSize bytes. It cuts no character.
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

// flushFull writes the buffer if enough is gathered.
func (log *logWriter) flushFull() error {
	if len(log.buffer) < gatherSize {
		return nil
	}
	return log.flush()
}

// flush writes the buffer, and keeps what was not taken. Each write ends with the
// end of a line if it has one, so that several writers on one pipe or file don't cut
// each other's lines. The head of an unfinished line waits for the rest of it,
// unless it fills a write.
func (log *logWriter) flush() error {
	var err error
	written := 0
	for written < len(log.buffer) && err == nil {
		piece := log.buffer[written:min(written+log.maxWrite, len(log.buffer))]
		if end := bytes.LastIndexByte(piece, '\n'); end >= 0 {
			piece = piece[:end+1]
		} else if len(piece) < log.maxWrite {
			break // the head of an unfinished line
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

// reset forgets what was not taken, and the line in hand.
func (log *logWriter) reset() {
	log.buffer, log.rest, log.unfinished = log.buffer[:0], nil, false
}

// isPermanent returns whether a log that failed with err can never take a line
// again: a pipe without a reader, a terminal that hung up (EIO), a closed file, one
// that could not be synced.
func (log *logWriter) isPermanent(err error) bool {
	return errors.Is(err, osfile.ErrNotOnDisk) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EBADF) ||
		errors.Is(err, syscall.EIO) && !log.regular ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}
