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

// store is a log in a file that the broker opens and locks. Whenever it opens the file, it cuts
// off a line without an end. Only one goroutine may use a store, but any may use progress.
type store struct {
	path   string   // empty: the log is no file of the broker's own, and the methods do nothing
	synced bool     // messages count as written only when they are on disk
	file   *os.File // nil: it is closed, or could not be opened again
	cut    int64    // how many bytes of a torn line open has cut off
	failed error    // of a sync, which makes each later sync fail

	progress progress // of the log's writes and the syncs

	// observe is nil, except in tests. It is called after each change of a file: with
	// "open", "truncate", "write", "sync" or "sync directory". data is the bytes that
	// were written. size is the size of the file after a truncation.
	observe func(change string, data []byte, size int64)
}

// openAttempts is how often open tries to open a file that is renamed at the same time.
const openAttempts = 10

// open opens the file that path names, locks it, and cuts off a line without an end. It makes
// the file, with mode 0640, if it is missing.
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
	return fmt.Errorf("%s: renamed faster than it can be opened", store.path)
}

// adopt locks file, which was just opened, cuts off a line without an end, and makes file the
// store's. If path names another file by then, adopt only returns that the name has moved.
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
		// Otherwise a power loss could leave blocks of the torn line between new lines.
		if err := store.syncFile(file); err != nil {
			return false, err
		}
		err := osfile.SyncDirectory(store.path)
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil // the file was renamed just now
		}
		if err != nil {
			return false, err
		}
		store.changed("sync directory", nil, 0)
		store.progress.note()
	}
	store.file = file
	return false, nil
}

// names reports whether path names file.
func (store *store) names(file *os.File) bool {
	named, err := os.Stat(store.path)
	info, wrong := file.Stat()
	return err == nil && wrong == nil && os.SameFile(named, info)
}

// look checks whether path still names the store's file. If not, it leaves the file, opens path
// again, and returns that the name has moved. Then a line that was not written whole must be
// written from its beginning. After an error the store has no file, and the next look opens
// path.
func (store *store) look() (moved bool, err error) {
	if store.path == "" {
		return false, nil
	}
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

// leave cuts off a line without an end, syncs the file if the store is synced, and closes it.
// It ignores an error of the cut, because readers skip a torn line.
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

// cutTornLine cuts off the bytes of file after its last line end. It returns their number.
func (store *store) cutTornLine(file *os.File) (int64, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 64<<10)
	whole := size // there is no line end after this
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

// sync makes the file's lines durable if the store is synced. Without a file it does nothing,
// because leave has synced the last file. After a sync that failed it returns the same error.
func (store *store) sync() error {
	if !store.synced || store.file == nil {
		return store.failed
	}
	return store.syncFile(store.file)
}

// syncFile makes all changes of file durable. After a sync that failed it returns the same error.
func (store *store) syncFile(file *os.File) error {
	if store.failed == nil {
		store.failed = osfile.Sync(file)
	}
	if store.failed != nil {
		return store.failed
	}
	store.changed("sync", nil, 0)
	store.progress.note()
	return nil
}

// changed reports a change to a test.
func (store *store) changed(change string, data []byte, size int64) {
	if store.observe != nil {
		store.observe(change, data, size)
	}
}
