// Package follow reads the lines of a log that grows, is rotated by renaming, and
// may be truncated; it knows its place in the log, and a State keeps that. It knows
// nothing of what is in the lines.
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
	// pollInterval is the time from one look at the log to the next. Polling
	// works on file systems of other machines too, which report no changes.
	pollInterval = 75 * time.Millisecond

	// listInterval is how often the directory is listed while the log's name
	// leads nowhere: a file may have had it between two looks.
	listInterval = time.Second

	// aloneFor is how long ago a removed file must have been known to be the
	// newest for the next one to be its successor.
	aloneFor = time.Second
)

// ErrLost is the error for a position that is in no file of the log.
var ErrLost = errors.New("the position is in no file of the log any more")

// Follower reads the lines of a log, from its oldest file to the one that has the
// log's name and is written to, and through each rotation. Files beside the log
// belong to it if the rest of their name matches [.-][0-9][0-9.-]*. They are ordered
// by the times of their last change; where these are equal, .1 is newer than .2, and
// a later date than an earlier one.
//
// A Follower must not be used from several goroutines at once. Its memory is bounded
// by a small multiple of 256 KiB and of the longest line.
type Follower struct {
	path string
	window
	file *os.File // in hand; nil: none has been found yet
	end  int64    // the offset in file of the window's end
	head []byte   // the first bytes of file, up to contextSize of those before end
	tail []byte   // the last ones before the line in hand, up to contextSize
	next *os.File // follows file when all lines of that have been returned

	moved bool     // a line of file has been returned; otherwise ...
	kept  Position // ... this is the position

	synced  int64 // file is durable up to this offset
	syncErr error // of a file that was followed before

	named  fs.FileInfo // what had the log's name at the last listing; nil: nothing
	listed time.Time   // when that was, if there was no next file; otherwise zero
	alone  time.Time   // when nothing newer than file was seen last

	around, scratch [2 * contextSize]byte // for intact
}

// New returns a Follower of the log at path, which may not exist yet. It begins with
// the oldest file; see Seek.
func New(path string) *Follower {
	return &Follower{path: path}
}

// Close closes the file in hand.
func (follower *Follower) Close() error {
	if follower.next != nil {
		follower.next.Close()
	}
	if follower.file == nil {
		return nil
	}
	return follower.file.Close()
}

// Position returns the place after the line that Next returned last. While a newer
// file has no line yet, this is in the older one. It takes some microseconds.
func (follower *Follower) Position() Position {
	if !follower.moved {
		return follower.kept
	}
	return positionAfter(follower.offset(), follower.head[:len(follower.tail)], follower.tail)
}

// offset returns where the line in hand begins in the file in hand.
func (follower *Follower) offset() int64 {
	return follower.end - int64(len(follower.rest()))
}

// At reports whether the Follower is at position, in whichever file.
func (follower *Follower) At(position Position) bool {
	if follower.moved && follower.offset() != position.Offset { // saves the hash
		return false
	}
	here := follower.Position()
	return here.Offset == position.Offset && here.Hash == position.Hash
}

// Seek makes the line after position the next. If several files have the position,
// the newest does. The error is ErrLost if none has; then the Follower stays where it
// is. At offset 0 the next line is the first of the oldest file that has changed at
// position.Time or later, even if there is none yet.
func (follower *Follower) Seek(position Position) error {
	if position.Offset == 0 {
		follower.enter(nil, nil, position)
		return nil
	}
	for {
		files, err := list(follower.path)
		if err != nil {
			return err
		}
		slices.Reverse(files)
		found, renamed, err := follower.find(files, position)
		switch {
		case found || err != nil:
			return err
		case !renamed:
			return fmt.Errorf("%s: %w (offset %d)", follower.path, ErrLost, position.Offset)
		}
	}
}

// find goes to position in the first of files that has it. Where one of them has
// been renamed since the listing, this is to be done anew.
func (follower *Follower) find(files []entry, position Position) (found, renamed bool, err error) {
	for _, entry := range files {
		file, err := entry.open()
		if err != nil || file == nil {
			return false, true, err
		}
		head, tail, err := readAround(file, position.Offset)
		if err == nil && positionAfter(position.Offset, head, tail) == position {
			follower.enter(file, tail, position)
			follower.head = append(follower.head, head...)
			return true, false, nil
		}
		file.Close()
		if err != nil && err != io.EOF {
			return false, false, err
		}
	}
	return false, false, nil
}

// enter goes on in file: after tail, which ends at position, or, if that is nil, at its
// start, where position stays the Follower's until there is a line.
func (follower *Follower) enter(file *os.File, tail []byte, position Position) {
	follower.Sync() // what fails here fails again when a position in the old file is saved
	if follower.next != file && follower.next != nil {
		follower.next.Close()
	}
	if follower.file != nil {
		follower.file.Close()
	}
	follower.file, follower.next = file, nil
	follower.window = window{text: follower.text[:0]}
	follower.head = follower.head[:0]
	follower.tail = append(follower.tail[:0], tail...)
	follower.end, follower.synced = 0, 0
	if tail != nil {
		follower.end = position.Offset
	}
	follower.moved, follower.kept = false, position
	follower.listed = time.Time{}
}

// Next returns the next line with its line feed, or nil if there is none at present;
// see Wait. Bytes after the last line feed of a file are returned, without one, when
// a newer file has a byte; they don't move the position. The line is valid until the
// next call, and until then it may be changed. The error is ErrLost where the file in
// hand was truncated or removed, and the position is in no other; it comes again from
// each call until Seek finds another place.
func (follower *Follower) Next() (line []byte, err error) {
	for {
		if line := follower.cut(); line != nil {
			follower.moved = true
			follower.tail = appendContext(follower.tail, line)
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

// Wait waits until it is time for another Next, 75 ms, or for the end of ctx.
func (follower *Follower) Wait(ctx context.Context) {
	select {
	case <-time.After(pollInterval):
	case <-ctx.Done():
	}
}

// read reads what the file in hand has beyond the window; grew is false if that is
// nothing. What was read counts only if the bytes around the line in hand are still
// in the file then: otherwise it was truncated, or its torn end cut off, and the
// position is looked for again.
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

// intact reports whether the file in hand still starts as it did, and has the bytes
// around the start of the line in hand.
func (follower *Follower) intact() (bool, error) {
	has := func(offset int64, want []byte) (bool, error) {
		found := follower.scratch[:len(want)]
		count, err := follower.file.ReadAt(found, offset)
		if err == io.EOF {
			err = nil
		}
		return bytes.Equal(found[:count], want), err
	}
	rest := follower.rest()
	around := append(follower.around[:0], follower.tail...)
	around = append(around, rest[:min(len(rest), contextSize)]...)
	intact, err := has(follower.offset()-int64(len(follower.tail)), around)
	if !intact || err != nil {
		return false, err
	}
	return has(0, follower.head)
}

// look finds out, when the file in hand has nothing more, whether there is more all
// the same, or a next file. It lists the directory only where something has changed.
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
	current := named != nil && own != nil && os.SameFile(named, own)
	if current || follower.isSettled(named) && now.Sub(follower.listed) < listInterval {
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

// isSettled reports whether the log's name leads nowhere, or to an empty file, as it
// did at the last listing.
func (follower *Follower) isSettled(named fs.FileInfo) bool {
	if named == nil || follower.named == nil {
		return named == nil && follower.named == nil
	}
	return named.Size() == 0 && os.SameFile(named, follower.named)
}

// following returns which of the log's files follow the one in hand, which own
// describes. If that is not among them any more, its position may be found in a copy:
// moved is true then. Otherwise the next file follows only if nothing else can have
// been between them.
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

// prepare has the file of a listing follow the one in hand, if that has nothing more:
// whoever wrote to it may have gone on until the next one had its first byte.
func (follower *Follower) prepare(entry entry) error {
	next, err := entry.open()
	if err != nil || next == nil {
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

// End returns the position after the log's last line. If no file has a line, this is
// at offset 0, and what has changed by then is before it. The error is fs.ErrNotExist
// if no file belongs to the log.
func (follower *Follower) End() (Position, error) {
	for {
		files, err := list(follower.path)
		if err != nil {
			return Position{}, err
		}
		if len(files) == 0 {
			return Position{}, &fs.PathError{Op: "open", Path: follower.path, Err: fs.ErrNotExist}
		}
		end, renamed, err := endOf(files)
		if err != nil || !renamed {
			return end, err
		}
	}
}

// SeekEnd makes the first line after the log's last the next, even if there is no log
// yet.
func (follower *Follower) SeekEnd() error {
	for {
		position, err := follower.End()
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil {
			err = follower.Seek(position)
		}
		if !errors.Is(err, ErrLost) { // the log may be truncated in between
			return err
		}
	}
}

// Sync makes the log durable up to the position of every line that Next has
// returned. After an error every call returns it: what was not written may be gone.
func (follower *Follower) Sync() error {
	if follower.syncErr == nil && follower.file != nil && follower.offset() > follower.synced {
		follower.syncErr = osfile.Sync(follower.file)
		follower.synced = follower.end
	}
	return follower.syncErr
}
