package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
)

// writeSize is how many bytes of lines are gathered for one write.
const writeSize = 64 << 10

// maxNotices bounds the notices that wait while the log takes nothing, in bytes.
const maxNotices = 1 << 20

// notices are the loop's own log lines on their way to the ticker goroutine.
type notices struct {
	lines   []string
	bytes   int // memory that lines takes, about
	dropped int // how many more there were than maxNotices holds
}

// noticeCost returns what line counts towards maxNotices.
func noticeCost(line string) int {
	const header = 16 // of a string, in bytes
	return header + len(line)
}

// add puts line at the end, or only counts it if there is no room.
func (notices *notices) add(line string) {
	if notices.dropped > 0 || notices.bytes+noticeCost(line) > maxNotices {
		notices.dropped++
		return
	}
	notices.lines = append(notices.lines, line)
	notices.bytes += noticeCost(line)
}

// take takes the first of the lines, at most count and about as many as one write
// holds. After the last it makes one of those that were dropped.
func (notices *notices) take(count int) []string {
	size, taken := 0, 0
	for taken < min(count, len(notices.lines)) && size < writeSize {
		size += noticeCost(notices.lines[taken])
		taken++
	}
	lines := notices.lines[:taken:taken]
	notices.lines = notices.lines[taken:]
	notices.bytes -= size
	if len(notices.lines) == 0 && notices.dropped > 0 {
		lines = append(lines, fmt.Sprintf("Broker: log lines that found no room while the log took nothing: %d", notices.dropped))
		notices.dropped = 0
	}
	return lines
}

// logWriter writes whole lines, in the format of the standard log package, to a
// writer that may fail and take part of what it is given. What was not taken
// stays in the buffer and is written first the next time, so that no line is
// torn, repeated or started over. It belongs to one goroutine.
type logWriter struct {
	writer io.Writer
	buffer []byte // not taken yet
	data   []byte // what is left of the data of the line that ends the buffer ...
	open   bool   // ... if that line is not finished

	failure error     // the first since a write last took everything, or nil
	since   time.Time // when it was

	progress atomic.Int64 // when bytes were taken last, in Unix nanoseconds
}

// appendTime starts a line.
func (log *logWriter) appendTime() {
	log.buffer = time.Now().AppendFormat(log.buffer, "2006/01/02 15:04:05 ")
}

// notice adds a line, which must be printable, to the buffer.
func (log *logWriter) notice(line string) {
	log.appendTime()
	log.buffer = append(log.buffer, line...)
	log.buffer = append(log.buffer, '\n')
}

// message adds message's line to the buffer, and writes when there is enough.
func (log *logWriter) message(message *apiv1.Message) error {
	log.appendTime()
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
		part := len(log.data)
		if part > writeSize {
			part = writeSize
			for back := 0; back < utf8.UTFMax-1 && !utf8.RuneStart(log.data[part]); back++ {
				part--
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
	if len(log.buffer) == 0 {
		return nil
	}
	taken, err := log.writer.Write(log.buffer)
	if taken > 0 {
		log.progress.Store(time.Now().UnixNano())
	}
	log.buffer = append(log.buffer[:0], log.buffer[taken:]...)
	if err != nil && log.failure == nil {
		log.failure, log.since = err, time.Now()
	}
	return err
}

// outage returns a notice of the failure that is over, or "" if there was none.
// It may be called after a flush that succeeded.
func (log *logWriter) outage() string {
	if log.failure == nil {
		return ""
	}
	notice := fmt.Sprintf("Broker: the log took nothing for %s: %v",
		time.Since(log.since).Round(time.Millisecond), log.failure)
	log.failure = nil
	return notice
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
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}
