package broker

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/logline"
	"mbus/internal/shared/osfile"
)

const (
	// fileWrite is the largest write to a regular file, in bytes.
	fileWrite = 256 << 10

	// pipeWrite is the largest write to anything else, in bytes. A pipe takes that many bytes
	// at once or none of them (pipe(7), PIPE_BUF). So the lines of several writers don't mix,
	// and each write that ends shows that the reader is alive.
	pipeWrite = 4 << 10

	// keptBuffer is the largest buffer that is kept for further lines, in bytes.
	keptBuffer = 1 << 20
)

// logWriter writes lines to a writer that may fail, and that may write only a part of its input. It
// keeps what is not written, so no line is torn or repeated. It is not safe for concurrent use.
type logWriter struct {
	writer  io.Writer
	store   *store
	regular bool // writer is a regular file

	buffer       []byte // whole lines
	lines        []line // of buffer
	linesWritten int    // how many of lines are written whole
	bytesWritten int    // how many bytes of buffer are written

	// The messages of the lines that were written since the last settle: how many they are, and
	// their messageBytes together.
	unsettledMessages, unsettledBytes int

	stamps logline.Stamp // of the messages
}

// line is a line in the buffer of a logWriter.
type line struct {
	end  int // where the next line begins
	size int // messageBytes of the line's message, 0 for a notice
}

// newLog returns a log in store, or in writer if store has no path.
func newLog(writer io.Writer, store *store) logWriter {
	log := logWriter{writer: writer, store: store}
	if file, isFile := writer.(*os.File); isFile {
		info, err := file.Stat()
		log.regular = err == nil && info.Mode().IsRegular()
	}
	if store.path != "" {
		log.writer, log.regular = store, true
	}
	return log
}

// addNotices adds notices, one or more whole lines, to the buffer.
func (w *logWriter) addNotices(notices []byte) {
	for notice := range bytes.Lines(notices) {
		w.buffer = append(w.buffer, notice...)
		w.lines = append(w.lines, line{end: len(w.buffer)})
	}
}

// addMessage adds the line of message, with the time stamp of when, to the buffer.
func (w *logWriter) addMessage(when time.Time, message *apiv1.Message) {
	if len(message.Data) > keptBuffer/4 { // otherwise the buffer might grow several times
		w.buffer = slices.Grow(w.buffer, logline.MaxSize(message))
	}
	w.buffer = w.stamps.Append(w.buffer, when)
	w.buffer = logline.Append(w.buffer, message)
	w.lines = append(w.lines, line{len(w.buffer), messageBytes(message)})
}

// flush writes the buffer. After an error it keeps what was not written. Before each write the
// store looks whether its file was renamed or emptied. If so, a line of which only a part was
// written is written again, whole, into another file.
func (w *logWriter) flush() error {
	for more := true; more; more = w.bytesWritten < len(w.buffer) {
		begin := 0 // where the first line begins that is not written whole
		if w.linesWritten > 0 {
			begin = w.lines[w.linesWritten-1].end
		}
		isNew, err := w.store.look(w.bytesWritten - begin)
		if isNew {
			w.bytesWritten = begin
		}
		if err != nil {
			return err
		}
		if err := w.writeSome(); err != nil {
			return err
		}
	}
	w.buffer, w.lines, w.linesWritten, w.bytesWritten = w.buffer[:0], w.lines[:0], 0, 0
	if cap(w.buffer) > keptBuffer {
		w.buffer = nil
	}
	return nil
}

// writeSome writes as much of the buffer as one write takes. If that includes the end of a line,
// the write ends there, so that several writers on one pipe or file don't cut each other's lines.
func (w *logWriter) writeSome() error {
	limit := w.bytesWritten + pipeWrite
	if w.regular {
		limit = w.bytesWritten + fileWrite
	}
	end := min(limit, len(w.buffer))
	for i := w.linesWritten; i < len(w.lines) && w.lines[i].end <= limit; i++ {
		end = w.lines[i].end
	}
	if end == w.bytesWritten {
		return nil
	}
	count, err := w.writer.Write(w.buffer[w.bytesWritten:end])
	if count > 0 {
		w.store.progress.send()
	}
	if count < end-w.bytesWritten && err == nil {
		err = io.ErrShortWrite
	}
	w.bytesWritten += count
	for _, line := range w.lines[w.linesWritten:] {
		if line.end > w.bytesWritten {
			break
		}
		w.linesWritten++
		if line.size > 0 {
			w.unsettledMessages++
			w.unsettledBytes += line.size
		}
	}
	return err
}

// isPermanent reports whether no later write can succeed after err: the log is a pipe without a
// reader, a terminal that hung up (EIO), a closed file, or a file that could not be synced.
func (w *logWriter) isPermanent(err error) bool {
	return errors.Is(err, osfile.ErrNotOnDisk) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EBADF) ||
		errors.Is(err, syscall.EIO) && !w.regular ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}
