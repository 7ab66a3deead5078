package broker

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mbus/internal/shared/logfile"
	"mbus/internal/shared/logline"
	"mbus/internal/shared/osfile"
)

// store is a log in files that the broker opens and locks, one after the other. The first line of
// each says which file of which log it is: see package logfile. Whenever the store opens a file,
// it cuts off a line without an end. Only one goroutine may use a store, but any may use progress.
type store struct {
	path   string   // empty: the log is no file of the broker's own, and the methods do nothing
	synced bool     // messages count as written only when they are on disk
	file   *os.File // nil: it is closed, or could not be opened again
	size   int64    // of file, as the store has left it
	cut    int64    // how many bytes of a torn line open has cut off
	failed error    // of a sync, which makes each later sync fail

	// last is the header of file, or of the file before while file is nil. Its Log is 0 if that
	// file has no header, its Number if no file is known. whole is how many bytes of whole lines
	// that file has, or had before it was emptied.
	last  logfile.Header
	whole int64

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

// adopt locks file, which was just opened, cuts off a line without an end, writes the header if
// there is no line, and makes file the store's. If path names another file by then, adopt only
// returns that the name has moved.
func (store *store) adopt(file *os.File) (moved bool, err error) {
	if err := store.lock(file, store.path); err != nil {
		return false, err
	}
	list, err := logfile.NewLister(store.path).List()
	if err != nil || !store.names(file) || list.Named == nil {
		return err == nil, err
	}
	header, err := store.identify(file, list)
	if err != nil {
		return false, err
	}
	whole, size, err := store.cutTornLine(file)
	if err != nil {
		return false, err
	}
	store.cut = size - whole
	if whole == 0 {
		line := header.Append(nil, time.Now())
		count, err := file.Write(line)
		store.changed("write", line[:count], 0)
		if err != nil {
			return false, err
		}
		store.progress.note()
		whole = int64(count)
	}
	if store.synced {
		// Otherwise a power loss could leave blocks of the torn line between new lines.
		if moved, err := store.syncNew(file); moved || err != nil {
			return moved, err
		}
	}
	store.file, store.last, store.whole, store.size = file, header, whole, whole
	return false, nil
}

// lock locks file, which was opened at path.
func (store *store) lock(file *os.File, path string) error {
	err := osfile.Lock(file)
	if errors.Is(err, osfile.ErrLocked) {
		return fmt.Errorf("%s: in use by another broker", path)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	return nil
}

// identify returns the header of file, which is FILE of list. If file has no whole line, it is the
// header that file must get. Otherwise file must be the last of its log.
func (store *store) identify(file *os.File, list *logfile.List) (logfile.Header, error) {
	start := make([]byte, len(logline.StampFormat))
	count, err := file.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return logfile.Header{}, err
	}
	if !logline.BeginsStamp(bytes.TrimRight(start[:count], "\x00")) {
		return logfile.Header{}, fmt.Errorf("%s: is not a log, it was left as it is", store.path)
	}
	header := list.Named.Header
	if header.Number == 0 {
		return store.next(list)
	}
	later := list.Of(header.Log, header.Number+1, logfile.MaxNumber)
	if count := len(later); count > 0 {
		last := later[count-1]
		return header, fmt.Errorf("%s: is file %d of its log, but %s beside it is file %d",
			store.path, header.Number, filepath.Base(last.Path), last.Header.Number)
	}
	if header.Log == store.last.Log && header.Number < store.last.Number {
		return header, fmt.Errorf("%s: is file %d of its log, but file %d was written last",
			store.path, header.Number, store.last.Number)
	}
	return header, nil
}

// next returns the header of the file after the last one.
func (store *store) next(list *logfile.List) (logfile.Header, error) {
	if store.last.Number == 0 {
		if err := store.findLast(list); err != nil {
			return logfile.Header{}, err
		}
	}
	return logfile.Header{
		Log:    cmp.Or(store.last.Log, logfile.NewLog()),
		Number: store.last.Number + 1,
		After:  store.whole,
		Name:   filepath.Base(list.Path),
	}, nil
}

// findLast finds the file before FILE, which has no line: of the log whose headers name FILE the
// one with the greatest number, and of several with that number the longest. Without headers it
// is the file of an earlier version that was modified last. The file is synced, because FILE's
// header will say how many bytes it has.
func (store *store) findLast(list *logfile.List) error {
	log := list.Log(0)
	files := slices.DeleteFunc(slices.Clone(list.Of(log, 1, logfile.MaxNumber)),
		func(file logfile.File) bool { return file.Header.Name != filepath.Base(list.Path) })
	order := func(a, b logfile.File) int {
		return cmp.Or(cmp.Compare(a.Header.Number, b.Header.Number),
			cmp.Compare(a.Info.Size(), b.Info.Size()))
	}
	if log == 0 {
		files = list.Earlier
		order = func(a, b logfile.File) int { return a.Info.ModTime().Compare(b.Info.ModTime()) }
	}
	if len(files) == 0 {
		return nil
	}
	last := slices.MaxFunc(files, order)
	file, err := last.Open()
	if err != nil {
		return err
	}
	defer file.Close()
	if err := store.lock(file, last.Path); err != nil {
		return err
	}
	whole, err := logfile.LineEnd(file, last.Info.Size())
	if err == nil {
		err = store.syncOld(file)
	}
	store.last, store.whole = last.Header, whole
	return err
}

// syncNew makes file durable, and its name. If the file was renamed just now, moved is true.
func (store *store) syncNew(file *os.File) (moved bool, err error) {
	if err := store.syncFile(file); err != nil {
		return false, err
	}
	err = osfile.SyncDirectory(store.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err == nil {
		store.changed("sync directory", nil, 0)
		store.progress.note()
	}
	return false, err
}

// syncOld makes a file durable that is followed by another, whose header says how many bytes it
// has. If the store is not synced, it ignores an error.
func (store *store) syncOld(file *os.File) error {
	if store.synced {
		return store.syncFile(file)
	}
	if osfile.Sync(file) == nil {
		store.changed("sync", nil, 0)
	}
	return nil
}

// names reports whether path names file.
func (store *store) names(file *os.File) bool {
	named, err := os.Stat(store.path)
	info, wrong := file.Stat()
	return err == nil && wrong == nil && os.SameFile(named, info)
}

// look checks whether path still names the store's file, and whether the file is as the store has
// left it, with so many bytes of a line that is not whole. If not, it leaves the file, opens path
// again, and returns that the file has moved. Then that line must be written from its beginning.
// After an error the store has no file, and the next look opens path.
func (store *store) look(begun int) (moved bool, err error) {
	if store.path == "" {
		return false, nil
	}
	if store.file != nil {
		info, err := store.file.Stat()
		if err == nil && info.Size() == store.size && store.names(store.file) {
			return false, nil
		}
		store.whole = store.size - int64(begun)
		if err := store.leave(); err != nil {
			return true, err
		}
	}
	return true, store.open()
}

// leave cuts off a line without an end, syncs the file, and closes it. It ignores an error of the
// cut, because readers skip a torn line.
func (store *store) leave() error {
	defer store.close()
	if whole, _, err := store.cutTornLine(store.file); err == nil && whole > 0 { // 0: emptied
		store.whole = whole
	}
	return store.syncOld(store.file)
}

// close closes the file, if there is one.
func (store *store) close() {
	if store.file != nil {
		store.file.Close()
		store.file = nil
	}
}

// cutTornLine cuts off the bytes of file after its last line end. It returns how many bytes are
// left, and how many there were.
func (store *store) cutTornLine(file *os.File) (whole, size int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	whole, err = logfile.LineEnd(file, info.Size())
	if err == nil && whole < info.Size() {
		if err = file.Truncate(whole); err == nil {
			store.changed("truncate", nil, whole)
		}
	}
	return whole, info.Size(), err
}

// Write implements io.Writer.
func (store *store) Write(lines []byte) (int, error) {
	count, err := store.file.Write(lines)
	store.size += int64(count)
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
