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

// store is a log in files that the broker opens and locks, one after the other. The first line of
// each says which file of which log it is: see package logfile. Whenever the store opens a file,
// it cuts off a line without an end. Only one goroutine may use a store.
type store struct {
	path   string   // empty: the log is no file of the broker's own, and the methods do nothing
	synced bool     // messages count as written only when they are on disk
	file   *os.File // nil: it is closed, or could not be opened again
	size   int64    // of file, as the store has left it
	failed error    // of a sync, which makes each later sync fail

	// last is the header of file, or of the file before while file is nil. Its Log is 0 if that
	// file has no header, its Number if no file is known. whole is how many bytes of whole lines
	// that file has, or had before it was emptied.
	last  logfile.Header
	whole int64

	notify   func(line string) // is called with lines for the log
	progress signal            // see awaitEnd

	// observe is nil, except in tests. It is called after each change of a file: with
	// "open", "truncate", "write", "sync" or "sync directory". data is the bytes that
	// were written. size is the size of the file after a truncation.
	observe func(change string, data []byte, size int64)
}

// openAttempts is how often open tries to open a file that is renamed at the same time.
const openAttempts = 10

// open opens the file that path names, locks it, and cuts off a line without an end. It makes
// the file, with mode 0640, if it is missing.
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
		moved, err := s.adopt()
		if err == nil && !moved {
			return nil
		}
		s.close()
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: renamed faster than it can be opened", s.path)
}

// adopt locks the file, which was just opened, and makes it fit for the next line: it cuts off a
// line without an end, and writes the header if there is no line. If path names another file by
// then, adopt returns that the name has moved.
func (s *store) adopt() (moved bool, err error) {
	if err := lock(s.file); err != nil {
		return false, err
	}
	list, err := logfile.NewList(s.path)
	if err != nil || !s.isNamed() || list.Named == nil {
		return err == nil, err
	}
	header, err := s.identify(list)
	if err != nil {
		return false, err
	}
	whole, size, err := s.cutTornLine()
	if err != nil {
		return false, err
	}
	if whole < size {
		s.notify(fmt.Sprintf("Broker: cut %d bytes of a torn line off the end of the log", size-whole))
	}
	s.size = whole
	if whole == 0 {
		if _, err := s.Write(header.Append(nil, time.Now())); err != nil {
			return false, err
		}
		s.progress.send()
	}
	s.last, s.whole = header, s.size
	if !s.synced {
		return false, nil
	}
	// Otherwise a power loss could leave blocks of the torn line between new lines.
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

// identify returns the header of the file, which is FILE of list. If the file has no whole line, it
// is the header that the file must get.
func (s *store) identify(list *logfile.List) (logfile.Header, error) {
	if err := list.CheckNamed(s.file, s.last); err != nil {
		return logfile.Header{}, fmt.Errorf("%s: %w", s.path, err)
	}
	if header := list.Named.Header; header.Number > 0 {
		return header, nil
	}
	return s.next(list)
}

// next returns the header of the file after the last one. At the start this is the file before
// FILE in list, if there is one.
func (s *store) next(list *logfile.List) (logfile.Header, error) {
	if before := list.Before(); s.last.Number == 0 && before != nil {
		if err := s.resume(before); err != nil {
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

// resume makes before the last file. It syncs it, because the next header will say how many bytes
// it has.
func (s *store) resume(before *logfile.File) error {
	file, err := before.Open()
	if err != nil {
		return err
	}
	defer file.Close()
	if err := lock(file); err != nil {
		return err
	}
	s.whole, err = logfile.LineEnd(file, before.Info.Size())
	if err == nil {
		err = s.syncFile(file)
	}
	s.last = before.Header
	return err
}

// syncNamed makes the file durable, and its name. If the file was renamed just now, moved is true.
func (s *store) syncNamed() (moved bool, err error) {
	if err := s.syncFile(s.file); err != nil {
		return false, err
	}
	err = osfile.SyncDirectory(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err == nil {
		s.changed("sync directory", nil, 0)
		s.progress.send()
	}
	return false, err
}

// isNamed reports whether path names the file.
func (s *store) isNamed() bool {
	named, err := os.Stat(s.path)
	info, wrong := s.file.Stat()
	return err == nil && wrong == nil && os.SameFile(named, info)
}

// look checks whether path still names the store's file, and whether the file is as the store has
// left it, with so many bytes of a line that is not whole. If not, it leaves the file, opens path
// again, and returns that the file has moved. Then that line must be written from its beginning.
// After an error the store has no file, and the next look opens path.
func (s *store) look(begun int) (moved bool, err error) {
	if s.path == "" {
		return false, nil
	}
	if s.file != nil {
		info, err := s.file.Stat()
		if err == nil && info.Size() == s.size && s.isNamed() {
			return false, nil
		}
		s.whole = s.size - int64(begun)
		if err := s.leave(); err != nil {
			return true, err
		}
	}
	return true, s.open()
}

// leave cuts off a line without an end, syncs the file, and closes it. It ignores an error of the
// cut, because readers skip a torn line.
func (s *store) leave() error {
	defer s.close()
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

// cutTornLine cuts off the bytes of the file after its last line end. It returns how many bytes are
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

// Write implements io.Writer.
func (s *store) Write(lines []byte) (int, error) {
	count, err := s.file.Write(lines)
	s.size += int64(count)
	if count > 0 {
		s.changed("write", lines[:count], 0)
	}
	return count, err
}

// sync makes the file's lines durable if the store is synced. Without a file it does nothing,
// because leave has synced the last file. After a sync that failed it returns the same error.
func (s *store) sync() error {
	if !s.synced || s.file == nil {
		return s.failed
	}
	return s.syncFile(s.file)
}

// syncFile makes all changes of file durable. If the store is not synced, it ignores an error.
// Otherwise it returns the same error after a sync that failed.
func (s *store) syncFile(file *os.File) error {
	if s.failed != nil {
		return s.failed
	}
	if err := osfile.Sync(file); err == nil {
		s.changed("sync", nil, 0)
		s.progress.send()
	} else if s.synced {
		s.failed = err
	}
	return s.failed
}

// changed reports a change to a test.
func (s *store) changed(change string, data []byte, size int64) {
	if s.observe != nil {
		s.observe(change, data, size)
	}
}
