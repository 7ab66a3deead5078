package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"mbus/internal/shared/osfile"
)

// store is a log in a file that the broker opens itself, for appending. The file has
// one broker, which has locked it, and ends with a whole line whenever it is opened.
// It belongs to one goroutine.
type store struct {
	path   string
	synced bool     // what is written must be on disk before it counts
	file   *os.File // nil: it could not be opened anew
	cut    int64    // bytes of a torn line that open has cut off
	failed error    // of a sync: what was written may never be on disk

	progress chan<- struct{} // signalled when a sync has ended

	// observe is nil, or a test's function that is called after each change of a
	// file: with "open", "truncate", "write", "sync" or "sync directory", and the
	// bytes that were written or, for a truncation, are left.
	observe func(change string, data []byte, size int64)
}

// openAttempts bounds how often a file is opened whose name moves meanwhile.
const openAttempts = 10

// open opens the file that path names, makes it with mode 0640 if it is missing, locks
// it, and cuts it back to its last line end.
func (store *store) open() error {
	for range openAttempts {
		if info, err := os.Stat(store.path); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s: must be a regular file", store.path)
		}
		file, err := os.OpenFile(store.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			return err
		}
		store.changed("open", nil, 0)
		moved, err := store.adopt(file)
		if err == nil && !moved {
			return nil
		}
		file.Close()
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: another file at each look", store.path)
}

// adopt makes file, which was just opened, the store's. It returns whether the name
// has moved to another file meanwhile.
func (store *store) adopt(file *os.File) (moved bool, err error) {
	switch err := osfile.Lock(file); {
	case errors.Is(err, osfile.ErrLocked):
		return false, fmt.Errorf("%s: in use by another broker", store.path)
	case err != nil:
		return false, fmt.Errorf("lock %s: %w", store.path, err)
	}
	if !store.names(file) {
		return true, nil
	}
	if store.cut, err = store.cutTornLine(file); err != nil {
		return false, err
	}
	if store.synced {
		// Else blocks of the torn line could be left between those of new lines.
		if err := store.syncFile(file); err != nil {
			return false, err
		}
		err := osfile.SyncDirectory(store.path)
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil // the name has just gone
		}
		if err != nil {
			return false, err
		}
		store.changed("sync directory", nil, 0)
		wakeUp(store.progress)
	}
	store.file = file
	return false, nil
}

// names returns whether path names file.
func (store *store) names(file *os.File) bool {
	named, err := os.Stat(store.path)
	info, wrong := file.Stat()
	return err == nil && wrong == nil && os.SameFile(named, info)
}

// look looks whether path still names the file that is written. If not, it closes
// the file, without a line that is not written whole, opens path anew, and returns
// that it has moved: the line in hand must be written from its beginning. After an
// error there is no file, and the next look opens path again.
func (store *store) look() (moved bool, err error) {
	if store.file != nil {
		if store.names(store.file) {
			return false, nil
		}
		if err := store.leave(); err != nil {
			return true, err
		}
	}
	return true, store.open()
}

// leave ends the file: it has whole lines only, on disk if that is wanted, and is
// closed. Readers skip a torn line, so it does no harm if that can't be cut off.
func (store *store) leave() error {
	defer store.close()
	store.cutTornLine(store.file)
	return store.sync()
}

// close closes the file, if there is one.
func (store *store) close() {
	if store.file != nil {
		store.file.Close()
		store.file = nil
	}
}

// cutTornLine cuts file back to its last line end. It returns how many bytes went.
func (store *store) cutTornLine(file *os.File) (int64, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 64<<10)
	whole := size // nothing after this is a line end
	for whole > 0 {
		part := block[:min(whole, int64(len(block)))]
		if _, err := file.ReadAt(part, whole-int64(len(part))); err != nil {
			return 0, err
		}
		end := bytes.LastIndexByte(part, '\n') + 1
		whole -= int64(len(part) - end)
		if end > 0 {
			break
		}
	}
	if whole == size {
		return 0, nil
	}
	if err := file.Truncate(whole); err != nil {
		return 0, err
	}
	store.changed("truncate", nil, whole)
	return size - whole, nil
}

// Write implements io.Writer.
func (store *store) Write(lines []byte) (int, error) {
	count, err := store.file.Write(lines)
	if count > 0 {
		store.changed("write", lines[:count], 0)
	}
	return count, err
}

// sync puts on disk what was written, if that is wanted. Without a file it has
// nothing to do: leave has synced the last one. After a sync that failed it fails.
func (store *store) sync() error {
	if !store.synced || store.file == nil {
		return store.failed
	}
	return store.syncFile(store.file)
}

// syncFile puts on disk what was written to file, and what was cut off.
func (store *store) syncFile(file *os.File) error {
	if store.failed == nil {
		store.failed = osfile.Sync(file)
	}
	if store.failed != nil {
		return store.failed
	}
	store.changed("sync", nil, 0)
	wakeUp(store.progress)
	return nil
}

// changed reports a change to a test.
func (store *store) changed(change string, data []byte, size int64) {
	if store.observe != nil {
		store.observe(change, data, size)
	}
}
