package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
)

const (
	// writeSize is how many bytes of lines are gathered for one write.
	writeSize = 64 << 10

	// pipeSize is how many bytes are written at once to what is not a regular
	// file. A pipe takes as many at once or none (pipe(7), PIPE_BUF), so that
	// a reader that is slow can be told from one that is gone.
	pipeSize = 4 << 10

	// maxNotices bounds the notices that wait for the log, in bytes.
	maxNotices = 1 << 20
)

// notice is one of the loop's own log lines: a line, or, if that is empty, what
// happened to a topic.
type notice struct {
	when  time.Time
	line  string
	topic *Topic
	count int // of messages that were queued; 0: topic was made
}

// append appends the notice's text to buffer.
func (notice *notice) append(buffer []byte) []byte {
	switch {
	case notice.line != "":
		return append(buffer, notice.line...)
	case notice.count == 0:
		buffer = append(buffer, "creating topic "...)
	case notice.count == 1:
		buffer = append(buffer, "new message dispatched on topic "...)
	default:
		buffer = strconv.AppendInt(buffer, int64(notice.count), 10)
		buffer = append(buffer, " new messages dispatched on topic "...)
	}
	return escape.AppendName(buffer, []byte(notice.topic.Name))
}

// notices are on their way from the loop to the ticker goroutine.
type notices struct {
	waiting []notice
	bytes   int // memory that they take
	dropped int // how many more there were, while there was no room
}

// room tells whether notices are kept at present. What one payload has to say is
// kept as a whole or dropped as a whole; it is never more than its messages take.
func (notices *notices) room() bool {
	return notices.dropped == 0 && notices.bytes < maxNotices
}

// add puts a notice at the end if it is to be kept, and else counts it.
func (notices *notices) add(keep bool, notice notice) {
	if !keep {
		notices.dropped++
		return
	}
	notices.waiting = append(notices.waiting, notice)
	notices.bytes += noticeCost(&notice)
}

// noticeCost returns the memory that a notice takes, in bytes.
func noticeCost(notice *notice) int {
	const fields = 64
	return fields + len(notice.line)
}

// take takes the first notices, at most count and about as many as one write
// holds. After the last it adds one about those that were dropped.
func (notices *notices) take(count int) []notice {
	size, taken := 0, 0
	for taken < min(count, len(notices.waiting)) && size < writeSize {
		size += noticeCost(&notices.waiting[taken])
		taken++
	}
	first := notices.waiting[:taken:taken]
	notices.waiting = notices.waiting[taken:]
	notices.bytes -= size
	if len(notices.waiting) == 0 {
		notices.waiting = nil
		if notices.dropped > 0 {
			line := fmt.Sprintf("Broker: log lines left out while the log did not keep up: %d", notices.dropped)
			first = append(first, notice{when: time.Now(), line: line})
			notices.dropped = 0
		}
	}
	return first
}

// logWriter writes whole lines, in the format of the standard log package, to a
// writer that may fail and take part of what it is given. What was not taken
// stays in the buffer and is written first the next time, so that no line is
// torn, repeated or started over. It belongs to one goroutine, but for progress.
type logWriter struct {
	writer io.Writer
	piece  int    // how many bytes are written at once
	buffer []byte // not taken yet
	data   []byte // what is left of the data of the line that ends the buffer ...
	open   bool   // ... if that line is not finished

	failure error     // the first since a write last took everything, or nil
	since   time.Time // when it was

	second int64  // the Unix time ...
	stamp  []byte // ... that this tells, in the format of the log package

	progress atomic.Int64 // when bytes were taken last, in Unix nanoseconds
}

// start prepares log for writing to writer.
func (log *logWriter) start(writer io.Writer) {
	log.writer, log.piece = writer, pipeSize
	if file, ok := writer.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
			log.piece = writeSize
		}
	}
}

// appendTime starts a line.
func (log *logWriter) appendTime(when time.Time) {
	if second := when.Unix(); second != log.second || log.stamp == nil {
		log.second = second
		log.stamp = when.AppendFormat(log.stamp[:0], "2006/01/02 15:04:05 ")
	}
	log.buffer = append(log.buffer, log.stamp...)
}

// notice adds a notice's line to the buffer.
func (log *logWriter) notice(notice *notice) {
	log.appendTime(notice.when)
	log.buffer = append(notice.append(log.buffer), '\n')
}

// message adds message's line to the buffer, and writes when there is enough.
func (log *logWriter) message(when time.Time, message *apiv1.Message) error {
	log.appendTime(when)
	log.buffer = append(log.buffer, "Received new message from topic '"...)
	log.buffer = escape.AppendName(log.buffer, []byte(message.Topic))
	log.buffer = append(log.buffer, "': '"...)
	log.data, log.open = message.Data, true
	return log.finish()
}

// finish adds what is missing of an open line, a part at a time: a line is up to
// four times as long as its data, and memory is bounded.
func (log *logWriter) finish() error {
	for log.open {
		if len(log.buffer) >= writeSize {
			if err := log.flush(); err != nil {
				return err
			}
		}
		part := min(len(log.data), writeSize)
		if part < len(log.data) { // cut between two characters
			last := part - 1
			for last > part-utf8.UTFMax && !utf8.RuneStart(log.data[last]) {
				last--
			}
			if !utf8.FullRune(log.data[last:part]) {
				part = last
			}
		}
		log.buffer = escape.Append(log.buffer, log.data[:part])
		log.data = log.data[part:]
		if len(log.data) == 0 {
			log.buffer = append(log.buffer, "'\n"...)
			log.open = false
		}
	}
	return nil
}

// flush writes the buffer, and keeps what was not taken.
func (log *logWriter) flush() error {
	var err error
	written := 0
	for written < len(log.buffer) && err == nil {
		piece := log.buffer[written:min(written+log.piece, len(log.buffer))]
		var taken int
		if taken, err = log.writer.Write(piece); taken > 0 {
			written += taken
			log.progress.Store(time.Now().UnixNano())
		}
		if taken < len(piece) && err == nil {
			err = io.ErrShortWrite
		}
	}
	log.buffer = append(log.buffer[:0], log.buffer[written:]...)
	if err != nil && log.failure == nil {
		log.failure, log.since = err, time.Now()
	}
	return err
}

// tellOutage writes a line about the failures that are over, if there were any.
// It may be called when everything was taken.
func (log *logWriter) tellOutage() error {
	if log.failure == nil {
		return nil
	}
	outage := time.Since(log.since).Round(time.Millisecond)
	line := fmt.Sprintf("Broker: the log took nothing for %s: %v", outage, log.failure)
	log.failure = nil
	log.notice(&notice{when: time.Now(), line: line})
	return log.flush()
}

// lines returns how many lines are in the buffer, whole or open.
func (log *logWriter) lines() int {
	count := bytes.Count(log.buffer, []byte{'\n'})
	if log.open {
		count++
	}
	return count
}

// gone tells whether a log that failed with err can never take a line again.
func gone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EBADF) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}
