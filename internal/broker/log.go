package broker

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/logline"
	"mbus/internal/shared/osfile"
)

const (
	// fileWrite is the largest write to a regular file, in bytes.
	fileWrite = 256 << 10

	// pipeWrite is the largest write to any other file, in bytes. A pipe accepts that many
	// bytes together or none of them (pipe(7), PIPE_BUF). So the lines of several writers
	// don't mix, and each write that ends shows that the reader is alive.
	pipeWrite = 4 << 10

	// keptBuffer is the largest buffer that is kept after it was written, in bytes.
	keptBuffer = 1 << 20
)

// logWriter writes lines to a writer that may fail and may write only a part of its input. It
// keeps the lines that are not written whole, so no line is torn or repeated. It is not safe for
// concurrent use.
type logWriter struct {
	writer   io.Writer
	store    *store
	regular  bool // writer is a regular file
	maxWrite int  // the largest write, in bytes

	buffer []byte // whole lines
	sizes  []int  // of each line: messageBytes of its message, 0 for a notice
	start  int    // the place in buffer of the first line that is not written whole
	line   int    // the number of that line in buffer
	begun  int    // how many bytes of that line are written

	writtenMessages, writtenBytes int // in lines that were written since the last settle

	stamps logline.Stamp
}

// newLog returns a log in store, or in writer if store has no path.
func newLog(writer io.Writer, store *store) logWriter {
	log := logWriter{writer: writer, store: store, maxWrite: pipeWrite}
	if file, isFile := writer.(*os.File); isFile {
		info, err := file.Stat()
		log.regular = err == nil && info.Mode().IsRegular()
	}
	if store.path != "" {
		log.writer, log.regular = store, true
	}
	if log.regular {
		log.maxWrite = fileWrite
	}
	return log
}

// addNotices adds lines that are not messages'.
func (log *logWriter) addNotices(lines []byte) {
	log.buffer = append(log.buffer, lines...)
	log.sizes = append(log.sizes, make([]int, bytes.Count(lines, []byte{'\n'}))...)
}

// addMessage adds a message's line.
func (log *logWriter) addMessage(when time.Time, message *apiv1.Message) {
	if len(message.Data) > keptBuffer/4 { // it may make the buffer grow, and then does so once
		log.buffer = slices.Grow(log.buffer, logline.MaxSize(message))
	}
	log.buffer = log.stamps.Append(log.buffer, when)
	log.buffer = logline.Append(log.buffer, message)
	log.sizes = append(log.sizes, messageBytes(message))
}

// flush writes the buffer, and keeps the lines that were not written whole. Before each write the
// store looks whether its file was renamed. Then the line in hand is written to the new file from
// its beginning.
func (log *logWriter) flush() error {
	var err error
	for more := true; more && err == nil; more = log.start < len(log.buffer) {
		var moved bool
		if moved, err = log.store.look(); moved {
			log.begun = 0
		}
		if err == nil {
			err = log.writeSome()
		}
	}
	if err != nil {
		return err
	}
	log.buffer, log.sizes, log.start, log.line = log.buffer[:0], log.sizes[:0], 0, 0
	if cap(log.buffer) > keptBuffer {
		log.buffer = nil
	}
	return nil
}

// writeSome writes as much of the buffer as one write takes. The write ends with the end of a
// line if it has one, so that several writers on one pipe or file don't cut each other's lines.
func (log *logWriter) writeSome() error {
	piece := log.buffer[log.start+log.begun:]
	piece = piece[:min(len(piece), log.maxWrite)]
	if end := bytes.LastIndexByte(piece, '\n'); end >= 0 {
		piece = piece[:end+1]
	}
	if len(piece) == 0 {
		return nil
	}
	count, err := log.writer.Write(piece)
	if count > 0 {
		log.store.progress.note()
	}
	if count < len(piece) && err == nil {
		err = io.ErrShortWrite
	}
	log.begun += count
	if end := bytes.LastIndexByte(piece[:count], '\n') + 1; end > 0 {
		log.start += log.begun - count + end
		log.begun = count - end
		for range bytes.Count(piece[:end], []byte{'\n'}) {
			if size := log.sizes[log.line]; size > 0 {
				log.writtenMessages++
				log.writtenBytes += size
			}
			log.line++
		}
	}
	return err
}

// isPermanent reports whether no later write can succeed after err: the log is a pipe without a
// reader, a terminal that hung up (EIO), a closed file, or a file that could not be synced.
func (log *logWriter) isPermanent(err error) bool {
	return errors.Is(err, osfile.ErrNotOnDisk) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EBADF) ||
		errors.Is(err, syscall.EIO) && !log.regular ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}

// progress is the time at which a write or a sync has last ended. Any goroutine may use it.
type progress struct {
	last atomic.Pointer[time.Time]
}

// note records that a write or a sync has ended now.
func (p *progress) note() {
	now := time.Now()
	p.last.Store(&now)
}

// since returns the time since the last note. There must have been one.
func (p *progress) since() time.Duration {
	return time.Since(*p.last.Load())
}
