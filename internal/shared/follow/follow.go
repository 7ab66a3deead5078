// Package follow reads the lines of a log that grows, is rotated by renaming, and may be
// truncated. A Position is a place in the log, and a State keeps one in a file. The package
// does not look into the lines, except into the first of each file; see package logfile.
//
// A Follower repeats this cycle. FILE is the file that has the log's name.
//
//  1. It returns the lines that it has read of the current file, one by one.
//  2. It reads more of the current file. If the file does not have the bytes around the position
//     any more, the Follower closes it, and goes on at 4.
//  3. At the end of the current file, it goes on to the next one: the file with the next number
//     whose first line says that it begins after exactly the bytes that were read. It syncs the
//     current file first, and returns the bytes after its last line feed as a torn line.
//  4. If there is no next file, and the current file is FILE, it waits. Otherwise it lists the
//     log's files, but only if something has changed. It goes on in a file that has the position,
//     or in the next one.
//  5. If the list shows that something is missing, it waits for that for up to 10 seconds. Then
//     the position is lost. If waiting can't help, the position is lost at once.
package follow

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mbus/internal/shared/logfile"
	"mbus/internal/shared/osfile"
)

const (
	// pollInterval is the time from one look at the log to the next where the kernel does not
	// report changes.
	pollInterval = 75 * time.Millisecond

	// watchedInterval is the same where it does. Polling also works on network file systems,
	// which do not report the changes of other machines.
	watchedInterval = 200 * time.Millisecond

	// listInterval is the time between two listings while something is missing. After a change,
	// the files are listed twice with this time between: the times of directories are coarse,
	// and may hide a second change.
	listInterval = time.Second

	// listShare limits the share of the time that listings take while nothing comes. After a
	// listing that took a time, the next one comes listShare times as long later.
	listShare = 200

	// Patience is how long a Follower waits for what is missing. Programs that copy or rename
	// the files of a log change one after the other.
	Patience = 10 * time.Second

	// awaitPatience is how long FILE is missing before that is reported.
	awaitPatience = 5 * time.Second
)

// Follower reads the lines of a log, from its oldest file to FILE, the file that has the log's
// name, and follows each rotation. A Follower is not safe for concurrent use. Its memory is
// bounded by a small multiple of 256 KiB and of the longest line.
type Follower struct {
	path   string
	report func(line string)

	current *cursor // the current file
	lost    error   // a LostError, until the next Seek

	syncErr  error                // the first error of a sync
	syncFile func(*os.File) error // osfile.Sync; DisableSync and tests replace it

	listFiles func(path string) (*logfile.List, error) // of a logfile.Lister, except in tests

	list     *logfile.List // the last one; nil: there must be a new one
	seen     view          // before the last listing
	changed  bool          // whether seen was new then
	rested   time.Time     // when listings may go on while nothing comes
	patience time.Duration // Patience, or 0 in Recover

	awaited  time.Time // since when FILE is awaited; zero: it has not been missing
	reported bool      // whether that was reported

	watcher  watcher
	resolved string // the path of FILE at the last look; empty: there was no look
}

// view is what can be seen of a log without a listing. When another file gets the name of FILE, the
// time of the directory changes.
type view struct {
	path      string    // of FILE, resolved
	size      int64     // of FILE; 0: it is missing, or empty
	directory time.Time // when the directory was changed; zero: it is missing
}

// New returns a Follower of the log at path. The log may not exist yet. The Follower reports
// lines for the user, without a line feed: which files it leaves out at the start of the log, and
// that the log is still missing after 5 seconds.
func New(path string, report func(line string)) *Follower {
	return &Follower{
		path: path, report: report, current: new(cursor), syncFile: osfile.Sync,
		listFiles: new(logfile.Lister).List, patience: Patience,
	}
}

// Close closes what the Follower has open.
func (f *Follower) Close() {
	f.current.file.Close() // of a nil file, Close does nothing
	f.watcher.close()
}

// Position returns the position after the last line that Next returned. After a torn line it is
// the start of the next file. The call takes some microseconds.
func (f *Follower) Position() Position { return f.current.position() }

// Before returns the position before the line that the last call of Next has returned.
func (f *Follower) Before() (Position, error) {
	return f.current.positionAt(f.current.begun)
}

// At reports whether the Follower is at position. The file's name does not matter.
func (f *Follower) At(position Position) bool {
	if f.current.file != nil && f.current.offset() != position.Offset {
		return false // without the cost of the hash
	}
	return f.Position() == position
}

// Seek makes Next return the line after position. If the current file has position, Next goes on in
// it. Otherwise Next finds out whether the log has position.
func (f *Follower) Seek(position Position) {
	next := f.current.seek(position)
	if next == nil {
		next = &cursor{sought: position}
	}
	f.enter(next)
	f.list, f.lost = nil, nil
}

// enter makes next the current cursor, and closes the file of the one before. If next is at the
// start of a file, torn is what the file before has after its last line.
func (f *Follower) enter(next *cursor) (torn []byte) {
	f.Sync() // keeps its error for the caller's next Sync
	if next.file != f.current.file {
		f.current.file.Close()
	}
	if next.end == 0 {
		torn = f.current.rest()
	}
	next.text = f.current.text[:0] // the torn bytes are there until the next read
	f.current = next
	return torn
}

// Next returns the next line with its line feed, or nil if there is none at present; see
// Wait. The line is valid until the next call of Next, and the caller may change it until
// then.
//
// When a newer file has a line, Next returns the bytes after the last line feed of the older
// file as a line without a line feed.
//
// The error is a LostError if the log does not have the position, or not all that follows it.
// Then each call returns it until Seek is called.
func (f *Follower) Next() (line []byte, err error) {
	for f.lost == nil {
		line, err := f.current.next()
		if err == logfile.ErrChanged {
			f.enter(&cursor{sought: f.Position()}) // another file may have it
			f.list = nil
			continue
		}
		if line != nil || err != nil {
			return line, err
		}
		next, err := f.findNext()
		if next == nil || err != nil {
			return nil, err
		}
		if torn := f.enter(next); len(torn) > 0 {
			return torn, nil
		}
	}
	return nil, f.lost
}

// Origin returns where the line comes from that the last call of Next has returned. The error is
// that of reading the first line of its file.
func (f *Follower) Origin() (Origin, error) {
	c := f.current
	if header := c.from.Header; header.Log != 0 {
		return Origin{header.Log, header.Number, c.begun}, nil
	}
	if c.firstLine == 0 {
		var err error
		if c.firstLine, err = hashFirstLine(c.file); err != nil {
			return Origin{}, err
		}
	}
	return Origin{Log: c.firstLine, Offset: c.begun}, nil
}

// Wait waits until the log may have another line, for 200 ms, or for the end of ctx. Without
// inotify, it waits for 75 ms. It may also return at once.
//
// What is watched is watched before the last look at it: otherwise a change between the two would
// not end the wait. So if there is anything new to watch, Wait returns, and the next call waits.
func (f *Follower) Wait(ctx context.Context) {
	isNew, err := f.watcher.watch(f.resolved, f.current.file)
	if err == nil && !isNew {
		err = f.watcher.wait(ctx, watchedInterval)
	}
	if err != nil {
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
		}
	}
}

// findNext is called at the end of the current file. It opens the file in which reading goes on.
// The cursor is nil if there is none at present.
func (f *Follower) findNext() (*cursor, error) {
	next, _, err := f.successor()
	if next == nil && err == nil {
		next, err = f.look()
	}
	if err == logfile.ErrChanged {
		f.list = nil // the next look lists anew
		return nil, nil
	}
	return next, err
}

// look is findNext without the last list. It looks at FILE and at the directory. If something has
// changed, it lists the files, and chooses one.
func (f *Follower) look() (*cursor, error) {
	seen, named, err := viewOf(f.path)
	if err != nil {
		return nil, err
	}
	f.resolved = seen.path
	now := time.Now()
	if f.current.file == nil && named == nil {
		f.await(now)
	}
	isQuiet := f.current.missing.IsZero() && f.holds(named) &&
		(f.list == nil || len(after(f.list, f.Position())) == 0)
	if isQuiet || !f.isDue(seen, now) {
		return nil, nil
	}
	f.changed = f.list == nil || seen != f.seen
	f.seen = seen
	if f.list, err = f.listFiles(f.path); err != nil {
		return nil, err
	}
	f.rested = time.Now().Add(time.Since(now) * listShare)
	f.current.listed = true
	return f.choose()
}

// await reports once that FILE is missing, after awaitPatience.
func (f *Follower) await(now time.Time) {
	if f.awaited.IsZero() {
		f.awaited = now
	}
	if !f.reported && now.Sub(f.awaited) >= awaitPatience {
		f.reported = true
		f.report(f.path + ": is not there yet, and is awaited")
	}
}

// holds reports whether info is of the current file.
func (f *Follower) holds(info fs.FileInfo) bool {
	own, err := f.current.file.Stat() // of a nil file, Stat returns an error
	return err == nil && os.SameFile(own, info)
}

// viewOf looks at the log at path. If FILE is missing, named is nil.
func viewOf(path string) (seen view, named fs.FileInfo, err error) {
	if seen.path, err = logfile.Resolve(path); err != nil {
		return view{}, nil, err
	}
	if directory, err := os.Stat(filepath.Dir(seen.path)); err == nil {
		seen.directory = directory.ModTime()
	}
	named, err = os.Stat(seen.path)
	if err == nil {
		seen.size = named.Size()
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return seen, named, err
}

// isDue reports whether the files must be listed: for the first time after a read, because FILE
// has got its first bytes, because something else has changed, or once more.
func (f *Follower) isDue(seen view, now time.Time) bool {
	if f.list == nil || !f.current.listed || f.seen.size == 0 && seen.size > 0 {
		return true
	}
	again := f.changed || !f.current.missing.IsZero()
	return seen != f.seen && now.After(f.rested) ||
		again && now.After(f.rested.Add(listInterval))
}

// DisableSync makes Sync do nothing. It is for a reader that keeps no position.
func (f *Follower) DisableSync() {
	f.syncFile = func(*os.File) error { return nil }
}

// Modified returns when the current file was modified last. There must be one: Next has returned a
// line.
func (f *Follower) Modified() (time.Time, error) {
	info, err := f.current.file.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// Sync makes durable the lines that Next has returned. After an error each call returns
// the same error, because the kernel may have dropped the bytes that it could not write.
func (f *Follower) Sync() error {
	c := f.current
	if f.syncErr == nil && c.offset() > c.synced {
		f.syncErr = f.syncFile(c.file)
		c.synced = c.end
	}
	return f.syncErr
}
