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
	writer  io.Writer
	store   *store
	regular bool // writer is a regular file

	buffer  []byte // whole lines
	lines   []line // of buffer
	done    int    // how many lines are written whole
	written int    // how many bytes of buffer are written

	doneMessages, doneBytes int // in lines that were written since the last settle

	stamps logline.Stamp
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

// addNotices adds lines that are not messages'.
func (w *logWriter) addNotices(notices []byte) {
	for notice := range bytes.Lines(notices) {
		w.buffer = append(w.buffer, notice...)
		w.lines = append(w.lines, line{end: len(w.buffer)})
	}
}

// addMessage adds a message's line.
func (w *logWriter) addMessage(when time.Time, message *apiv1.Message) {
	if len(message.Data) > keptBuffer/4 { // it may make the buffer grow, and then does so once
		w.buffer = slices.Grow(w.buffer, logline.MaxSize(message))
	}
	w.buffer = w.stamps.Append(w.buffer, when)
	w.buffer = logline.Append(w.buffer, message)
	w.lines = append(w.lines, line{len(w.buffer), messageBytes(message)})
}

// flush writes the buffer, and keeps the lines that were not written whole. Before each write the
// store looks whether its file was renamed or emptied. Then the line in hand is written from its
// beginning.
func (w *logWriter) flush() error {
	for more := true; more; more = w.written < len(w.buffer) {
		begin := 0 // of the first line that is not written whole
		if w.done > 0 {
			begin = w.lines[w.done-1].end
		}
		moved, err := w.store.look(w.written - begin)
		if moved {
			w.written = begin
		}
		if err != nil {
			return err
		}
		if err := w.writeSome(); err != nil {
			return err
		}
	}
	w.buffer, w.lines, w.done, w.written = w.buffer[:0], w.lines[:0], 0, 0
	if cap(w.buffer) > keptBuffer {
		w.buffer = nil
	}
	return nil
}

// writeSome writes as much of the buffer as one write takes. The write ends with the end of a
// line if it has one, so that several writers on one pipe or file don't cut each other's lines.
func (w *logWriter) writeSome() error {
	limit := w.written + pipeWrite
	if w.regular {
		limit = w.written + fileWrite
	}
	end := min(limit, len(w.buffer))
	for i := w.done; i < len(w.lines) && w.lines[i].end <= limit; i++ {
		end = w.lines[i].end
	}
	if end == w.written {
		return nil
	}
	count, err := w.writer.Write(w.buffer[w.written:end])
	if count > 0 {
		w.store.progress.send()
	}
	if count < end-w.written && err == nil {
		err = io.ErrShortWrite
	}
	w.written += count
	for ; w.done < len(w.lines) && w.lines[w.done].end <= w.written; w.done++ {
		if size := w.lines[w.done].size; size > 0 {
			w.doneMessages++
			w.doneBytes += size
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
