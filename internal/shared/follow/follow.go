// Package follow reads the lines of a log that grows, is rotated by renaming, and may be
// truncated. A Position is a place in the log, and a State keeps one in a file. The package
// does not look into the lines, except into the first of each file; see package logfile.
//
// A Follower goes through the same cycle again and again:
//
//  1. The lines that have been read are returned, one by one.
//  2. More of the file in hand is read; if the file does not have the bytes around the position
//     any more, it is left, and the position is looked for among the log's files.
//  3. At the end of the file in hand, the next one is the file with the next number whose first
//     line says that it begins after exactly the bytes that have been read.
//  4. If there is none, and the file in hand is FILE, there is nothing to do but to wait; else
//     the directory is listed, but only if something has changed.
//  5. What the listed files show to be missing is waited for up to 10 seconds; then the position
//     is lost, and at once if no waiting can help.
//  6. Before the first line of the next file is returned, the file in hand is synced, and its
//     end without a line feed is returned as a torn line.
package follow

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

	// listInterval is the time between two listings while something is missing. It is also how
	// long after a change the directory is listed once more: the times of directories are
	// coarse, and may hide a second change.
	listInterval = time.Second

	// listShare limits the share of the time that listings take while nothing comes: after one,
	// none follows for so many times as long.
	listShare = 200

	// patience is how long what is missing is waited for. Programs that copy or rename the
	// files of a log change one after the other.
	patience = 10 * time.Second

	// awaitPatience is how long a missing FILE is waited for without a word.
	awaitPatience = 5 * time.Second
)

// Follower reads the lines of a log, from its oldest file to FILE, the file that has the log's
// name, and follows each rotation. A Follower is not safe for concurrent use. Its memory is
// bounded by a small multiple of 256 KiB and of the longest line.
type Follower struct {
	path   string
	report func(line string)
	window
	file   *os.File       // in hand; nil: none has been found yet
	header logfile.Header // of file
	end    int64          // the offset in file of the window's end
	head   []byte         // the first contextSize bytes of file, or all before end
	next   place          // is read after file; without a file: it is not known yet

	recent []byte   // at least the last contextSize bytes before the line in hand, or all
	begun  int64    // where the last line that was returned begins in file
	moved  bool     // whether a line of file has been returned
	kept   Position // the position until then

	firstLine uint64 // see hashFirstLine; 0: it is not known yet
	lost      error  // a LostError, until the next Seek

	synced   int64                // the offset up to which file is durable
	syncErr  error                // the first error of a sync
	syncFile func(*os.File) error // osfile.Sync, except in tests

	listFiles func(path string) (*logfile.List, error) // logfile.NewList, except in tests
	list      *logfile.List                            // the files of the last listing; nil: they must be listed
	seen      view                                     // before the last listing
	changed   bool                                     // whether seen was new then
	rested    time.Time                                // when listings may go on while nothing comes
	reported  bool                                     // whether a report said so
	judged    bool                                     // whether choose has decided since the last line
	missing   time.Time                                // since when something is missing; zero: nothing is
	awaited   time.Time                                // since when FILE is awaited; zero: it has not been missing
	patience  time.Duration                            // patience, or 0 in Recover

	watcher  watcher
	resolved string // the path of FILE at the last look; empty: there was none
}

// view is what a look sees without a listing. Another file with the name of FILE changes the time
// of the directory.
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
		path: path, report: report, syncFile: osfile.Sync, patience: patience,
		listFiles: logfile.NewList,
	}
}

// Close closes what the Follower has open.
func (follower *Follower) Close() {
	follower.file.Close() // of a nil file, Close does nothing
	follower.next.file.Close()
	follower.watcher.close()
}

// Position returns the position after the last line that Next returned. Until a newer file
// has a line, the position is in the older file. The call takes some microseconds.
func (follower *Follower) Position() Position {
	if !follower.moved {
		return follower.kept
	}
	tail := follower.tail()
	return Position{
		Log: follower.header.Log, Number: follower.header.Number, Offset: follower.offset(),
		Hash: hash(follower.head[:len(tail)], tail),
	}
}

// tail returns the last contextSize bytes before the line in hand, or all.
func (follower *Follower) tail() []byte {
	return follower.recent[max(0, len(follower.recent)-contextSize):]
}

// offset returns the offset of the line in hand in the file in hand.
func (follower *Follower) offset() int64 {
	return follower.end - int64(len(follower.rest()))
}

// At reports whether the Follower is at position. The file's name does not matter.
func (follower *Follower) At(position Position) bool {
	if follower.moved && follower.offset() != position.Offset {
		return false // without the cost of the hash
	}
	return follower.Position() == position
}

// Seek makes Next return the line after position. Next finds out whether the log has position.
func (follower *Follower) Seek(position Position) {
	follower.leave(position)
	follower.list, follower.lost, follower.missing = nil, nil, time.Time{}
}

// leave closes the file in hand. Its caller passes the position that remains.
func (follower *Follower) leave(kept Position) {
	follower.Sync() // keeps its error for the caller's next Sync
	follower.file.Close()
	follower.next.file.Close()
	follower.file, follower.next = nil, place{}
	follower.window = window{text: follower.text[:0]}
	follower.head, follower.recent = follower.head[:0], follower.recent[:0]
	follower.end, follower.synced, follower.firstLine = 0, 0, 0
	follower.moved, follower.kept, follower.judged = false, kept, false
}

// drop leaves the file in hand, which has changed, and has the position looked for.
func (follower *Follower) drop() {
	follower.leave(follower.Position())
	follower.list = nil
}

// enter makes the next file the one in hand. The position remains until there is a line, but a
// file that has it gives it its number.
func (follower *Follower) enter() {
	next, kept := follower.next, follower.Position()
	follower.next = place{}
	follower.leave(kept)
	follower.file, follower.header = next.file, next.from.Header
	follower.end = next.offset
	follower.head = append(follower.head, next.head...)
	follower.recent = append(follower.recent, next.tail...)
	follower.missing = time.Time{}
	if next.offset > 0 {
		follower.kept.Log, follower.kept.Number = follower.header.Log, follower.header.Number
	}
}

// Next returns the next line with its line feed, or nil if there is none at present; see
// Wait. The line is valid until the next call of Next, and the caller may change it until
// then.
//
// When a newer file has a line, Next returns the bytes after the last line feed of the older
// file as a line without a line feed. They don't move the position.
//
// The error is a LostError if the log does not have the position, or not all that follows it.
// Then each call returns it until Seek is called.
func (follower *Follower) Next() (line []byte, err error) {
	for follower.lost == nil {
		if line := follower.cut(); line != nil {
			if follower.isForeign(line) {
				follower.drop()
				continue
			}
			follower.moved, follower.judged = true, false
			follower.begun = follower.offset() - int64(len(line))
			follower.recent = appendContext(follower.recent, line)
			return line, nil
		}
		if follower.next.file != nil {
			follower.enter()
		}
		grew, err := follower.read()
		if err != nil {
			return nil, err
		}
		if grew {
			continue
		}
		if err := follower.look(); err != nil || follower.next.file == nil {
			return nil, err
		}
		if torn := follower.rest(); follower.next.offset == 0 && len(torn) > 0 {
			return torn, nil
		}
	}
	return nil, follower.lost
}

// isForeign reports whether line is the first of another file than the one in hand was: that one
// was emptied before its first line was read.
func (follower *Follower) isForeign(line []byte) bool {
	if follower.offset() > int64(len(line)) {
		return false
	}
	header, found := logfile.Parse(line)
	if !found {
		header.Number = 1
	}
	return header != follower.header
}

// Wait waits until the log may have another line, for 200 ms, or for the end of ctx. Without
// inotify, it waits for 75 ms. It may also return at once.
//
// What is watched is watched before the last look at it: otherwise a change between the two would
// not end the wait. So if there is anything new to watch, Wait returns, and the next call waits.
func (follower *Follower) Wait(ctx context.Context) {
	isNew, err := follower.watcher.watch(follower.resolved, follower.file)
	if err == nil && !isNew {
		err = follower.watcher.wait(ctx, watchedInterval)
	}
	if err != nil {
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
		}
	}
}

// read reads the bytes of the file in hand that follow the window. If there are none, grew
// is false. After reading, it checks that the file still has the bytes around the line in
// hand. If not, the file was truncated or lost a torn end: read drops it.
func (follower *Follower) read() (grew bool, err error) {
	if follower.file == nil {
		return false, nil
	}
	room := follower.room()
	count, err := follower.file.ReadAt(room, follower.end)
	if err != nil && err != io.EOF {
		return false, err
	}
	intact, err := follower.intact()
	if err != nil {
		return false, err
	}
	if !intact {
		follower.drop()
		return true, nil
	}
	missing := contextSize - len(follower.head)
	follower.head = append(follower.head, room[:min(count, missing)]...)
	follower.add(count)
	follower.end += int64(count)
	if count > 0 {
		follower.missing = time.Time{}
	}
	return count > 0, nil
}

// intact reports whether the file in hand still has its first bytes and those around the
// start of the line in hand.
func (follower *Follower) intact() (bool, error) {
	has := func(offset int64, want []byte) (bool, error) {
		found := make([]byte, len(want))
		count, err := follower.file.ReadAt(found, offset)
		if err == io.EOF {
			err = nil
		}
		return bytes.Equal(found[:count], want), err
	}
	tail, rest := follower.tail(), follower.rest()
	around := slices.Concat(tail, rest[:min(len(rest), contextSize)])
	intact, err := has(follower.offset()-int64(len(tail)), around)
	if !intact || err != nil {
		return false, err
	}
	return has(0, follower.head)
}

// look is called when the file in hand has no more bytes. It sets the next file, or does nothing.
func (follower *Follower) look() error {
	_, err := follower.succeed()
	if err == nil && follower.next.file == nil {
		err = follower.glance()
	}
	if isChange(err) {
		follower.list = nil // a file was changed at the same time: the next look lists anew
		return nil
	}
	return err
}

// isChange reports whether err is of a file that was renamed, removed or cut at the same time.
func isChange(err error) bool {
	return errors.Is(err, logfile.ErrChanged) || errors.Is(err, io.EOF)
}

// glance looks at FILE and at the directory. If something has changed, it lists the files, and
// chooses the next one.
func (follower *Follower) glance() error {
	seen, named, err := look(follower.path)
	if err != nil {
		return err
	}
	follower.resolved = seen.path
	now := time.Now()
	if follower.file == nil && named == nil {
		follower.await(now)
	}
	isQuiet := follower.missing.IsZero() && follower.holds(named) &&
		(follower.list == nil || len(after(follower.list, follower.Position())) == 0)
	if isQuiet || !follower.isDue(seen, now) {
		return nil
	}
	follower.changed = follower.list == nil || seen != follower.seen
	follower.seen = seen
	if follower.list, err = follower.listFiles(follower.path); err != nil {
		return err
	}
	follower.rested, follower.judged = time.Now().Add(time.Since(now)*listShare), true
	return follower.choose()
}

// await reports once that FILE is missing, if it is missing for awaitPatience.
func (follower *Follower) await(now time.Time) {
	if follower.awaited.IsZero() {
		follower.awaited = now
	}
	if !follower.reported && now.Sub(follower.awaited) >= awaitPatience {
		follower.reported = true
		follower.report(follower.path + ": is not there yet, and is awaited")
	}
}

// holds reports whether info is of the file in hand.
func (follower *Follower) holds(info fs.FileInfo) bool {
	own, err := follower.file.Stat() // of a nil file, Stat returns an error
	return err == nil && os.SameFile(own, info)
}

// look looks at the log at path. If FILE is missing, named is nil.
func look(path string) (seen view, named fs.FileInfo, err error) {
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

// isDue reports whether the directory must be listed: for the first time after a line, because FILE
// has got its first line, because something else has changed, or once more.
func (follower *Follower) isDue(seen view, now time.Time) bool {
	before := follower.seen
	isNew := seen.size > 0 && (before.size == 0 || seen.directory != before.directory)
	if follower.list == nil || !follower.judged || isNew {
		return true
	}
	again := follower.changed || !follower.missing.IsZero()
	return seen != before && now.After(follower.rested) ||
		again && now.After(follower.rested.Add(listInterval))
}

// DisableSync makes Sync do nothing. It is for a reader that keeps no position.
func (follower *Follower) DisableSync() {
	follower.syncFile = func(*os.File) error { return nil }
}

// Modified returns when the file in hand was modified last. There must be one: Next has returned a
// line.
func (follower *Follower) Modified() (time.Time, error) {
	info, err := follower.file.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// Sync makes durable the lines that Next has returned. After an error each call returns
// the same error, because the kernel may have dropped the bytes that it could not write.
func (follower *Follower) Sync() error {
	if follower.syncErr == nil && follower.file != nil && follower.offset() > follower.synced {
		follower.syncErr = follower.syncFile(follower.file)
		follower.synced = follower.end
	}
	return follower.syncErr
}
