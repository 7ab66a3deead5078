package follow

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"mbus/internal/shared/logfile"
)

// watcher waits until the kernel reports a change of a log; see inotify(7). It must be closed. It
// is not safe for concurrent use.
type watcher struct {
	inotify    *os.File // nil: not yet
	descriptor int      // of inotify
	name       string   // the base name of FILE
	directory  int      // the watch of the directory of FILE
	watches    []int    // all watches
	events     [4 << 10]byte
}

// watch makes wait report changes of file, which may be nil, of FILE at path, which may be
// missing, and of the names that belong to the log. It reports whether something is watched that
// was not watched before: then a change may have come before the watch, and wait does not report
// it. After an error, wait must not be called.
func (w *watcher) watch(path string, file *os.File) (isNew bool, err error) {
	if w.inotify == nil {
		w.descriptor, err = syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
		if err != nil {
			return false, err
		}
		w.inotify = os.NewFile(uintptr(w.descriptor), "inotify")
	}
	const names = syscall.IN_CREATE | syscall.IN_MOVED_TO | syscall.IN_ONLYDIR
	w.name = filepath.Base(path)
	w.directory, err = syscall.InotifyAddWatch(w.descriptor, filepath.Dir(path), names)
	if err != nil {
		return false, err
	}
	before := w.watches
	w.watches = []int{w.directory}
	if err := w.add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if file != nil { // not by its name, which may be another file's
		if err := w.add(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err != nil {
			return false, err
		}
	}
	for _, old := range before {
		if !slices.Contains(w.watches, old) {
			// An error: the file is gone, and the watch with it.
			syscall.InotifyRmWatch(w.descriptor, uint32(old))
		}
	}
	return slices.ContainsFunc(w.watches, func(watch int) bool {
		return !slices.Contains(before, watch)
	}), nil
}

// add watches the file at path.
func (w *watcher) add(path string) error {
	watch, err := syscall.InotifyAddWatch(w.descriptor, path, syscall.IN_MODIFY)
	if err == nil {
		w.watches = append(w.watches, watch)
	}
	return err
}

// wait waits for a change, for the timeout, or for the end of ctx. It must be called after watch.
func (w *watcher) wait(ctx context.Context, timeout time.Duration) error {
	if err := w.inotify.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		w.inotify.SetReadDeadline(time.Unix(1, 0)) // ends Read
	})
	defer stop()
	for {
		count, err := w.inotify.Read(w.events[:])
		if errors.Is(err, os.ErrDeadlineExceeded) || err == nil && w.concern(count) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// concern reports whether one of the first count bytes of events, which are whole events, is
// about the log. Other programs may keep files beside it, such as states.
func (w *watcher) concern(count int) bool {
	for rest := w.events[:count]; len(rest) >= syscall.SizeofInotifyEvent; {
		watch := int(int32(binary.NativeEndian.Uint32(rest)))
		mask := binary.NativeEndian.Uint32(rest[4:])
		end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
		name := rest[syscall.SizeofInotifyEvent:end]
		rest = rest[end:]
		switch {
		case mask&syscall.IN_Q_OVERFLOW != 0:
			return true
		case !slices.Contains(w.watches, watch), mask&syscall.IN_IGNORED != 0:
		case watch != w.directory:
			return true
		case logfile.Belongs(string(bytes.TrimRight(name, "\x00")), w.name):
			return true
		}
	}
	return false
}

// close ends all watches.
func (w *watcher) close() {
	w.inotify.Close() // of a nil file, Close does nothing
	w.inotify, w.watches = nil, nil
}
