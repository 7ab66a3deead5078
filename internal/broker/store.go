package broker

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mbus/internal/shared/logfile"
	"mbus/internal/shared/osfile"
)

// store is a log in files. It opens and locks them, one after the other. The first line of each,
// its header, says which file of which log it is: see package logfile. Whenever the store opens a
// file, it cuts off a line without an end. Only one goroutine may use a store.
type store struct {
	path   string   // of the log; empty: the broker opens no file, and the store does nothing
	synced bool     // messages count as written only when they are on disk
	file   *os.File // nil: it is closed, or could not be opened
	size   int64    // of file after the store's last write or cut, in bytes

	syncError error // of the first sync that failed; each later sync fails with it

	// last is the header of file, or of the last file while file is nil. It has no Log if that
	// file has no header. It has no Number before the first file is known. whole is the offset
	// after the last whole line of the last file. While file is open, whole is out of date.
	last  logfile.Header
	whole int64

	notify   func(line string) // queues.notify
	progress signal            // to awaitEnd: a write or a sync has ended

	// observe is nil, except in tests. It is called after each change of a file. change is
	// "open", "truncate", "write", "sync" or "sync directory". data is what was written. size
	// is the size of the file after a truncation.
	observe func(change string, data []byte, size int64)
}

// openAttempts is how many times open tries to open a file that is renamed at the same time.
const openAttempts = 10

// open opens the file that path names, and gets it ready for the next line. It makes the file, with
// mode 0640, if it is missing.
func (s *store) open() (err error) {
	for range openAttempts {
		if info, err := os.Stat(s.path); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s: must be a regular file", s.path)
		}
		s.file, err = os.OpenFile(s.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			return err
		}
		s.changed("open", nil, 0)
		if err = s.initFile(); err == nil {
			return nil
		}
		s.close()
		if err != logfile.ErrChanged {
			return err
		}
	}
	return fmt.Errorf("%s: renamed faster than it can be opened", s.path)
}

// initFile locks the file, which was just opened. It cuts off a line without an end, and writes the
// header if no line is left. The error is logfile.ErrChanged if path no longer names the file, or
// if a file of the log was renamed or cut at the same time.
func (s *store) initFile() error {
	if err := lock(s.file); err != nil {
		return err
	}
	list, err := logfile.NewList(s.path)
	info, wrong := s.file.Stat()
	if err := cmp.Or(err, wrong); err != nil {
		return err
	}
	if list.Named == nil || !os.SameFile(list.Named.Info, info) {
		return logfile.ErrChanged
	}
	header, err := s.headerOf(list)
	if err != nil {
		return err
	}
	whole, size, err := s.cutTornLine()
	if err != nil {
		return err
	}
	if whole < size {
		s.notify(fmt.Sprintf(
			"Broker: cut %d bytes of a torn line off the end of the log", size-whole))
	}
	s.size = whole
	if whole == 0 {
		if _, err := s.Write(header.Append(nil, time.Now())); err != nil {
			return err
		}
		s.progress.send()
	}
	s.last, s.whole = header, s.size
	if !s.synced {
		return nil
	}
	// Without this sync a power loss could leave blocks of the torn line between new lines.
	return s.syncNamed()
}

// lock locks file.
func lock(file *os.File) error {
	err := osfile.Lock(file)
	switch {
	case errors.Is(err, osfile.ErrLocked):
		return fmt.Errorf("%s: in use by another broker", file.Name())
	case err != nil:
		return fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return nil
}

// headerOf returns the header of the file, which is FILE of list. If the file has no whole line,
// this is the header that it must get: that of the file after the last. At the start the last file
// is the one before FILE in list, if there is one.
func (s *store) headerOf(list *logfile.List) (logfile.Header, error) {
	if err := list.CheckNamed(s.file, s.last); err != nil {
		return logfile.Header{}, fmt.Errorf("%s: %w", s.path, err)
	}
	if header := list.Named.Header; header.Number > 0 {
		return header, nil
	}
	if before := list.Before(); s.last.Number == 0 && before != nil {
		if err := s.continueAfter(before); err != nil {
			return logfile.Header{}, err
		}
	}
	return logfile.Header{
		Log:    cmp.Or(s.last.Log, logfile.NewLog()),
		Number: s.last.Number + 1,
		After:  s.whole,
		Name:   filepath.Base(list.Path),
	}, nil
}

// continueAfter makes before the last file. It syncs that file, because the next header says how
// many bytes it has.
func (s *store) continueAfter(before *logfile.File) error {
	file, err := before.Open()
	if err != nil {
		return err
	}
	defer file.Close()
	if err := lock(file); err != nil {
		return err
	}
	whole, err := logfile.LineEnd(file, before.Info.Size())
	if err != nil {
		return err
	}
	s.last, s.whole = before.Header, whole
	return s.syncFile(file)
}

// syncNamed makes the file and its name durable. The error is logfile.ErrChanged if no file has the
// name.
func (s *store) syncNamed() error {
	if err := s.syncFile(s.file); err != nil {
		return err
	}
	err := osfile.SyncDirectory(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return logfile.ErrChanged
	case err == nil:
		s.changed("sync directory", nil, 0)
		s.progress.send()
	}
	return err
}

// look checks whether path still names the store's file, and whether the file still has the size
// that the store knows. begun is how many of its last bytes belong to a line that is not written
// whole. If something has changed, look leaves the file and opens path. Then isNew is true, and
// that line must be written from its beginning. After an error there is no file, and the next look
// opens path.
func (s *store) look(begun int) (isNew bool, err error) {
	if s.path == "" {
		return false, nil
	}
	if s.file != nil {
		named, _ := os.Stat(s.path) // nil after an error, and then not the same file
		info, err := s.file.Stat()
		if err == nil && info.Size() == s.size && os.SameFile(named, info) {
			return false, nil
		}
		if err := s.leave(begun); err != nil {
			return true, err
		}
	}
	return true, s.open()
}

// leave cuts off a line without an end, syncs the file, and closes it. begun is as in look. It
// ignores an error of the cut, because readers skip a torn line.
func (s *store) leave(begun int) error {
	defer s.close()
	s.whole = s.size - int64(begun)
	if whole, _, err := s.cutTornLine(); err == nil && whole > 0 { // 0: emptied
		s.whole = whole
	}
	return s.syncFile(s.file)
}

// close closes the file, if there is one.
func (s *store) close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// cutTornLine cuts off what the file has after its last line end. It returns how many bytes are
// left, and how many there were.
func (s *store) cutTornLine() (whole, size int64, err error) {
	info, err := s.file.Stat()
	if err != nil {
		return 0, 0, err
	}
	whole, err = logfile.LineEnd(s.file, info.Size())
	if err == nil && whole < info.Size() {
		if err = s.file.Truncate(whole); err == nil {
			s.changed("truncate", nil, whole)
		}
	}
	return whole, info.Size(), err
}

// Write appends whole lines, or a part of one, to the file. It implements io.Writer.
func (s *store) Write(lines []byte) (int, error) {
	count, err := s.file.Write(lines)
	s.size += int64(count)
	if count > 0 {
		s.changed("write", lines[:count], 0)
	}
	return count, err
}

// sync makes the file durable if the store is synced. Without a file it does nothing, because leave
// has synced the last one. The error is that of syncFile.
func (s *store) sync() error {
	if !s.synced || s.file == nil {
		return s.syncError
	}
	return s.syncFile(s.file)
}

// syncFile makes file durable. If the store is not synced, it ignores an error. Otherwise it fails
// for ever after the first error, because the kernel may have dropped data by then.
func (s *store) syncFile(file *os.File) error {
	if s.syncError != nil {
		return s.syncError
	}
	if err := osfile.Sync(file); err == nil {
		s.changed("sync", nil, 0)
		s.progress.send()
	} else if s.synced {
		s.syncError = err
	}
	return s.syncError
}

// changed calls observe in a test.
func (s *store) changed(change string, data []byte, size int64) {
	if s.observe != nil {
		s.observe(change, data, size)
	}
}
