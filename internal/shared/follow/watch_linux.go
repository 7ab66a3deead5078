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
	path       string   // of FILE, resolved
	directory  int      // the watch of its directory
	watches    []int    // all watches
	events     [4 << 10]byte
}

// watch makes wait report changes of file, which may be nil, of FILE at path, which may be
// missing, and of the names that belong to the log. It reports whether something is watched that
// was not watched before: then a change may have come before the watch, and wait does not report
// it. After an error, wait must not be called.
func (watcher *watcher) watch(path string, file *os.File) (isNew bool, err error) {
	if watcher.inotify == nil {
		watcher.descriptor, err = syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
		if err != nil {
			return false, err
		}
		watcher.inotify = os.NewFile(uintptr(watcher.descriptor), "inotify")
	}
	const names = syscall.IN_CREATE | syscall.IN_MOVED_TO | syscall.IN_ONLYDIR
	watcher.path = path
	watcher.directory, err = syscall.InotifyAddWatch(
		watcher.descriptor, filepath.Dir(path), names)
	if err != nil {
		return false, err
	}
	before := watcher.watches
	watcher.watches = []int{watcher.directory}
	if err := watcher.add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if file != nil { // not by its name, which may be another file's
		if err := watcher.add(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err != nil {
			return false, err
		}
	}
	for _, old := range before {
		if !slices.Contains(watcher.watches, old) {
			// An error: the file is gone, and the watch with it.
			syscall.InotifyRmWatch(watcher.descriptor, uint32(old))
		}
	}
	return slices.ContainsFunc(watcher.watches, func(watch int) bool {
		return !slices.Contains(before, watch)
	}), nil
}

// add watches the file at path.
func (watcher *watcher) add(path string) error {
	watch, err := syscall.InotifyAddWatch(watcher.descriptor, path, syscall.IN_MODIFY)
	if err == nil {
		watcher.watches = append(watcher.watches, watch)
	}
	return err
}

// wait waits for a change, for the timeout, or for the end of ctx. It must be called after watch.
func (watcher *watcher) wait(ctx context.Context, timeout time.Duration) error {
	if err := watcher.inotify.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		watcher.inotify.SetReadDeadline(time.Unix(1, 0)) // ends Read
	})
	defer stop()
	for {
		count, err := watcher.inotify.Read(watcher.events[:])
		if errors.Is(err, os.ErrDeadlineExceeded) || err == nil && watcher.concern(count) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// concern reports whether one of the first count bytes of events, which are whole events, is
// about the log. Other programs may keep files beside it, such as states.
func (watcher *watcher) concern(count int) bool {
	for rest := watcher.events[:count]; len(rest) >= syscall.SizeofInotifyEvent; {
		watch := int(int32(binary.NativeEndian.Uint32(rest)))
		mask := binary.NativeEndian.Uint32(rest[4:])
		end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
		name := rest[syscall.SizeofInotifyEvent:end]
		rest = rest[end:]
		switch {
		case mask&syscall.IN_Q_OVERFLOW != 0:
			return true
		case !slices.Contains(watcher.watches, watch), mask&syscall.IN_IGNORED != 0:
		case watch != watcher.directory:
			return true
		case logfile.Belongs(string(bytes.TrimRight(name, "\x00")), filepath.Base(watcher.path)):
			return true
		}
	}
	return false
}

// close ends all watches.
func (watcher *watcher) close() {
	watcher.inotify.Close() // of a nil file, Close does nothing
	watcher.inotify, watcher.watches = nil, nil
}
