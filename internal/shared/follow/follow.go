// Package follow reads the lines of a log that grows, is rotated by renaming, and may be
// truncated. A Position is a place in the log, and a State keeps one in a file. The package
// does not look into the lines.
//
// A known limit: the first KiB of the file and the KiB before the position identify a position.
// If two files of a log have the same bytes in both places, they cannot be told apart, and the
// newest file is read. So a log of constant messages must not be rotated twice in one second,
// in which all its lines have the same time.
package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"mbus/internal/shared/osfile"
)

const (
	// pollInterval is the time from one look at the log to the next. Polling also
	// works on network file systems, which do not report the changes of other machines.
	pollInterval = 75 * time.Millisecond

	// listInterval is how often the directory is listed while no file has the
	// log's name: one may have had it for a moment between two looks.
	listInterval = time.Second

	// aloneFor limits how old the last look may be that found the file in hand to
	// be the newest. If the file in hand has been removed since, the log's next file
	// is then taken for its successor.
	aloneFor = time.Second
)

// ErrLost reports that no file of the log has a position.
var ErrLost = errors.New("the position is in no file of the log any more")

// Follower reads the lines of a log, from its oldest file to the file that has the log's
// name, and follows each rotation. A file beside the log belongs to it if the rest of its
// name matches [.-][0-9][0-9.-]*. Files are ordered by their modification times. Among equal
// times, .1 is newer than .2, and a later date is newer than an earlier one.
//
// A Follower is not safe for concurrent use. Its memory is bounded by a small multiple of
// 256 KiB and of the longest line.
type Follower struct {
	path string
	window
	file *os.File // in hand; nil: none has been found yet
	end  int64    // the offset in file of the window's end
	head []byte   // the first contextSize bytes of file, or all before end
	next *os.File // is read after file; nil: it is not known yet

	recent []byte // at least the last contextSize bytes before the line in hand, or all

	moved bool     // whether a line of file has been returned
	kept  Position // the position until then

	synced   int64                // the offset up to which file is durable
	syncErr  error                // the first error of a sync
	syncFile func(*os.File) error // osfile.Sync, except in tests

	named  fs.FileInfo // the file that had the log's name at the last listing; nil: none
	listed time.Time   // of the last listing, if it had no next file; otherwise zero
	alone  time.Time   // of the last look that found no file newer than file

	around, scratch [2 * contextSize]byte // buffers of intact
}

// New returns a Follower of the log at path. The log may not exist yet.
func New(path string) *Follower {
	return &Follower{path: path, syncFile: osfile.Sync}
}

// Close closes the files that the Follower has open.
func (follower *Follower) Close() {
	follower.file.Close() // of a nil file, Close does nothing
	follower.next.Close()
}

// Position returns the position after the last line that Next returned. Until a newer file
// has a line, the position is in the older file. The call takes some microseconds.
func (follower *Follower) Position() Position {
	if !follower.moved {
		return follower.kept
	}
	tail := follower.tail()
	return positionAfter(follower.offset(), follower.head[:len(tail)], tail)
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
	here := follower.Position()
	return here.Offset == position.Offset && here.Hash == position.Hash
}

// Seek makes Next return the line after position. If several files have the position, the
// newest is read. If none has it, the error is ErrLost and the Follower does not move.
//
// Every file has a position at offset 0. After Seek to one, Next returns the first line of
// the oldest file that was modified at position.Time or later. There may be none yet.
func (follower *Follower) Seek(position Position) error {
	if position.Offset == 0 {
		follower.enter(nil, nil, position)
		return nil
	}
	for {
		files, err := list(follower.path)
		if err == nil {
			err = follower.find(files, position)
		}
		if err != errChanged {
			return err
		}
	}
}

// find goes to position in the last of files that has it. The error is ErrLost if none has it.
func (follower *Follower) find(files []entry, position Position) error {
	for _, entry := range slices.Backward(files) {
		file, err := entry.open()
		if err != nil {
			return err
		}
		head, tail, err := readAround(file, position.Offset)
		if err == nil && positionAfter(position.Offset, head, tail) == position {
			follower.enter(file, tail, position)
			follower.head = append(follower.head, head...)
			return nil
		}
		file.Close()
		if err != nil && err != io.EOF {
			return err
		}
	}
	return fmt.Errorf("%s: %w (offset %d)", follower.path, ErrLost, position.Offset)
}

// enter makes file the file in hand. If tail is not nil, it is the text before position,
// and reading begins there. Otherwise it begins at the start of file, and position remains
// the Follower's until there is a line.
func (follower *Follower) enter(file *os.File, tail []byte, position Position) {
	follower.Sync() // keeps its error for the caller's next Sync
	if follower.next != file {
		follower.next.Close()
	}
	follower.file.Close()
	follower.file, follower.next = file, nil
	follower.window = window{text: follower.text[:0]}
	follower.head = follower.head[:0]
	follower.recent = append(follower.recent[:0], tail...)
	follower.end, follower.synced = 0, 0
	if tail != nil {
		follower.end = position.Offset
	}
	follower.moved, follower.kept = false, position
	follower.listed = time.Time{}
}

// Next returns the next line with its line feed, or nil if there is none at present; see
// Wait. The line is valid until the next call of Next, and the caller may change it until
// then.
//
// When a newer file has a byte, Next returns the bytes after the last line feed of the older
// file as a line without a line feed. They don't move the position.
//
// The error is ErrLost if the file in hand was truncated or removed and no other file has
// the position. Each call returns ErrLost until a Seek has succeeded.
func (follower *Follower) Next() (line []byte, err error) {
	for {
		if line := follower.cut(); line != nil {
			follower.moved = true
			follower.recent = appendContext(follower.recent, line)
			return line, nil
		}
		if follower.next != nil {
			follower.enter(follower.next, nil, follower.Position())
		}
		grew, err := follower.read()
		if err != nil {
			return nil, err
		}
		if grew {
			continue
		}
		more, err := follower.look()
		if err != nil || !more {
			return nil, err
		}
		if torn := follower.rest(); follower.next != nil && len(torn) > 0 {
			return torn, nil
		}
	}
}

// Wait waits for 75 ms or for the end of ctx. Then there may be another line.
func (follower *Follower) Wait(ctx context.Context) {
	select {
	case <-time.After(pollInterval):
	case <-ctx.Done():
	}
}

// read reads the bytes of the file in hand that follow the window. If there are none, grew
// is false. After reading, it checks that the file still has the bytes around the line in
// hand. If not, the file was truncated or lost a torn end: read drops what it has read and
// seeks the position.
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
		return true, follower.Seek(follower.Position())
	}
	missing := contextSize - len(follower.head)
	follower.head = append(follower.head, room[:min(count, missing)]...)
	follower.add(count)
	follower.end += int64(count)
	return count > 0, nil
}

// intact reports whether the file in hand still has its first bytes and those around the
// start of the line in hand.
func (follower *Follower) intact() (bool, error) {
	has := func(offset int64, want []byte) (bool, error) {
		found := follower.scratch[:len(want)]
		count, err := follower.file.ReadAt(found, offset)
		if err == io.EOF {
			err = nil
		}
		return bytes.Equal(found[:count], want), err
	}
	tail, rest := follower.tail(), follower.rest()
	around := append(follower.around[:0], tail...)
	around = append(around, rest[:min(len(rest), contextSize)]...)
	intact, err := has(follower.offset()-int64(len(tail)), around)
	if !intact || err != nil {
		return false, err
	}
	return has(0, follower.head)
}

// look is called when the file in hand has no more bytes. It looks for the next file, and
// lists the directory only if something has changed. If more is true, Next must try again.
func (follower *Follower) look() (more bool, err error) {
	now := time.Now()
	named, err := os.Stat(follower.path)
	if errors.Is(err, fs.ErrNotExist) {
		named, err = nil, nil
	}
	var own fs.FileInfo
	if follower.file != nil && err == nil {
		own, err = follower.file.Stat()
	}
	if err != nil {
		return false, err
	}
	settled := follower.isSettled(named) && now.Sub(follower.listed) < listInterval
	if settled || os.SameFile(named, own) { // of nil, SameFile reports false
		follower.alone = now
		return false, nil
	}
	files, err := list(follower.path)
	if err != nil {
		return false, err
	}
	following, moved, err := follower.following(files, own)
	if moved || err != nil {
		return moved, err
	}
	at := slices.IndexFunc(following, func(entry entry) bool { return entry.info.Size() > 0 })
	if at < 0 {
		follower.named, follower.listed, follower.alone = named, now, now
		return false, nil
	}
	return true, follower.prepare(following[at])
}

// isSettled reports whether named, which has the log's name, is as it was at the last
// listing: nil for no file both times, or the same empty file.
func (follower *Follower) isSettled(named fs.FileInfo) bool {
	if named == nil {
		return follower.named == nil
	}
	return named.Size() == 0 && os.SameFile(named, follower.named)
}

// following returns those of the log's files that follow the file in hand, which own
// describes. If none is in hand, these are the files modified at the position's time or later.
// If the file in hand does not belong to the log any more, following seeks the position; moved
// is true if another file has it. If none has it, the files modified later follow, but only if
// the file in hand was the newest a moment ago: otherwise another file may have been removed
// too.
func (follower *Follower) following(files []entry, own fs.FileInfo) (
	following []entry, moved bool, err error) {
	var since time.Time
	if own == nil {
		since = time.Unix(0, follower.kept.Time)
	} else {
		isOwn := func(entry entry) bool { return os.SameFile(entry.info, own) }
		if at := slices.IndexFunc(files, isOwn); at >= 0 {
			return files[at+1:], false, nil
		}
		err := follower.Seek(follower.Position())
		if !errors.Is(err, ErrLost) || time.Since(follower.alone) > aloneFor {
			return nil, err == nil, err
		}
		since = own.ModTime()
	}
	isOlder := func(entry entry) bool {
		return entry.suffix != "" && entry.info.ModTime().Before(since)
	}
	return slices.DeleteFunc(files, isOlder), false, nil
}

// prepare makes the file of entry the next one, unless the file in hand has grown: its
// writer may have written to it until the next file had its first byte.
func (follower *Follower) prepare(entry entry) error {
	next, err := entry.open()
	if err == errChanged {
		return nil // Next looks again
	}
	if err != nil {
		return err
	}
	grew, err := follower.read()
	if grew || err != nil {
		next.Close()
		return err
	}
	follower.next = next
	return nil
}

// End returns the position after the log's last line. If no file has a line, the position is
// at offset 0, and its time is that of the newest file. The error is fs.ErrNotExist if the
// log has no file.
func (follower *Follower) End() (Position, error) {
	for {
		files, err := list(follower.path)
		if err != nil {
			return Position{}, err
		}
		if len(files) == 0 {
			return Position{}, &fs.PathError{Op: "open", Path: follower.path, Err: fs.ErrNotExist}
		}
		end, err := endOf(files)
		if err != errChanged {
			return end, err
		}
	}
}

// SeekEnd makes Next return the first line after those that the log has. The log may not
// exist yet.
func (follower *Follower) SeekEnd() error {
	for {
		position, err := follower.End()
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = follower.Seek(position)
		}
		if !errors.Is(err, ErrLost) { // which a truncation after End causes
			return err
		}
	}
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
