package follow

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"mbus/internal/shared/logfile"
)

// cursor is an open file of the log, and how far it has been read. Its next line is the one after
// the last line that was returned.
type cursor struct {
	file   *os.File // nil: no file with the position has been found yet
	sought Position // the position while there is no file

	window
	from   logfile.File
	lines  int64  // the offset after the last line that file had when it was opened
	end    int64  // the offset of the window's end
	head   []byte // the first contextSize bytes of file, or all before end
	recent []byte // at least the last contextSize bytes before the next line, or all

	begun     int64  // the offset of the last line that was returned
	firstLine uint64 // see hashFirstLine; 0: it is not known yet
	synced    int64  // the offset up to which file is durable

	listed  bool      // whether the files have been listed since the last bytes were read
	missing time.Time // since when something is missing after the position; zero: nothing is
}

// openAt opens the file from at position. If the file does not have position, the cursor is nil.
func openAt(from logfile.File, position Position) (*cursor, error) {
	file, err := from.Open()
	if err != nil {
		return nil, err
	}
	c := &cursor{file: file, from: from}
	c.lines, err = logfile.LineEnd(file, from.Info.Size())
	var next *cursor
	if err == nil && position.Offset <= c.lines {
		next, err = c.to(position)
	}
	if next == nil {
		file.Close()
	}
	return next, err
}

// to returns a cursor of the same file at position. It is nil if the bytes before that differ.
func (c *cursor) to(position Position) (*cursor, error) {
	head, recent, err := readAround(c.file, position.Offset)
	if err != nil || hash(head, recent) != position.Hash {
		return nil, err
	}
	return &cursor{
		file: c.file, from: c.from, lines: c.lines, end: position.Offset,
		head: head, recent: recent, firstLine: c.firstLine, synced: c.synced,
	}, nil
}

// seek is to for a position that may be of another file, or that the file may not have any more.
// The cursor is nil then, and if the file has no header: another file may have the position too.
func (c *cursor) seek(position Position) *cursor {
	start := startOf(c.from)
	start.Offset, start.Hash = position.Offset, position.Hash
	if c.file == nil || start != position || position.Log == 0 {
		return nil
	}
	next, _ := c.to(position)
	return next
}

// position returns the position before the next line.
func (c *cursor) position() Position {
	if c.file == nil {
		return c.sought
	}
	position, tail := startOf(c.from), c.tail()
	position.Offset, position.Hash = c.offset(), hash(c.head[:len(tail)], tail)
	return position
}

// positionAt returns the position at offset of the file.
func (c *cursor) positionAt(offset int64) (Position, error) {
	position := startOf(c.from)
	head, tail, err := readAround(c.file, offset)
	position.Offset, position.Hash = offset, hash(head, tail)
	return position, err
}

// offset returns the offset of the next line.
func (c *cursor) offset() int64 {
	return c.end - int64(len(c.rest()))
}

// tail returns the last contextSize bytes before the next line, or all.
func (c *cursor) tail() []byte {
	return c.recent[max(0, len(c.recent)-contextSize):]
}

// next returns the next line, or nil if the file does not have its line feed yet. The error is
// logfile.ErrChanged if the file was truncated, lost a torn end, or has become another one.
func (c *cursor) next() ([]byte, error) {
	for {
		if line := c.cut(); line != nil {
			c.begun = c.offset() - int64(len(line))
			if c.begun == 0 && c.isForeign(line) {
				c.window, c.end = window{}, 0 // so that the position is still the file's start
				return nil, logfile.ErrChanged
			}
			c.recent = appendContext(c.recent, line)
			return line, nil
		}
		grew, err := c.read()
		if !grew || err != nil {
			return nil, err
		}
	}
}

// isForeign reports whether line, the first of the file, is not the one that was listed: the file
// was emptied before the line was read.
func (c *cursor) isForeign(line []byte) bool {
	header, found := logfile.Parse(line)
	if !found {
		header.Number = 1
	}
	return header != c.from.Header
}

// read reads the bytes of the file that follow the window. If there are none, grew is false. After
// reading, it checks that the file still has the bytes around the next line.
func (c *cursor) read() (grew bool, err error) {
	if c.file == nil {
		return false, nil
	}
	room := c.room()
	count, err := c.file.ReadAt(room, c.end)
	if err != nil && err != io.EOF {
		return false, err
	}
	if err := c.check(); err != nil || count == 0 {
		return false, err
	}
	missing := contextSize - len(c.head)
	c.head = append(c.head, room[:min(count, missing)]...)
	c.add(count)
	c.end += int64(count)
	c.listed, c.missing = false, time.Time{}
	return true, nil
}

// check returns logfile.ErrChanged unless the file still has its first bytes and those around the
// start of the next line.
func (c *cursor) check() error {
	tail, rest := c.tail(), c.rest()
	around := slices.Concat(tail, rest[:min(len(rest), contextSize)])
	if err := c.expect(around, c.offset()-int64(len(tail))); err != nil {
		return err
	}
	return c.expect(c.head, 0)
}

// expect returns logfile.ErrChanged unless the file has the bytes want at offset.
func (c *cursor) expect(want []byte, offset int64) error {
	found := make([]byte, len(want))
	err := logfile.ReadFull(c.file, found, offset)
	if err == nil && !bytes.Equal(found, want) {
		return logfile.ErrChanged
	}
	return err
}

// rank is higher for a file that counts before others with its number: for one whose lines end
// where the next file says, and then for FILE.
func (c *cursor) rank(list *logfile.List) int {
	end := startOf(c.from)
	end.Offset = c.lines
	switch {
	case len(successors(list, end)) > 0:
		return 2
	case c.from.Path == list.Path:
		return 1
	}
	return 0
}

// pick opens the file that counts of those that have position: the one of the highest rank, and of
// several the longest. The cursor is nil if none has position. It is also nil if another file of
// the highest rank has other bytes. Then unlike says so. At most two files are open at a time,
// because there may be many copies.
func pick(list *logfile.List, position Position, files []logfile.File) (
	best *cursor, unlike string, err error) {
	defer func() {
		if best != nil && (err != nil || unlike != "") {
			best.file.Close()
			best = nil
		}
	}()
	for _, from := range files {
		other, err := openAt(from, position)
		if err != nil {
			return best, "", err
		}
		if best == nil || other == nil {
			best = cmp.Or(best, other)
			continue
		}
		rank, isLike := cmp.Compare(other.rank(list), best.rank(list)), true
		switch {
		case rank > 0:
			unlike = "" // it said so of files that do not count
		case rank == 0:
			isLike, err = sameBytes(best, other)
		}
		if !isLike {
			unlike = fmt.Sprintf("%s and %s are two unlike files with number %d",
				best.from.Path, other.from.Path, other.from.Header.Number)
		}
		if cmp.Or(rank, cmp.Compare(other.lines, best.lines)) > 0 {
			best, other = other, best
		}
		other.file.Close()
		if err != nil {
			return best, "", err
		}
	}
	return best, unlike, nil
}

// sameBytes reports whether two cursors have the same lines after them, as far as both go.
func sameBytes(a, b *cursor) (bool, error) {
	var blocks [2][32 << 10]byte
	for offset, end := a.end, min(a.lines, b.lines); offset < end; offset += int64(len(blocks[0])) {
		length := min(end-offset, int64(len(blocks[0])))
		err := logfile.ReadFull(a.file, blocks[0][:length], offset)
		if err == nil {
			err = logfile.ReadFull(b.file, blocks[1][:length], offset)
		}
		if err != nil || blocks[0] != blocks[1] {
			return false, err
		}
	}
	return true, nil
}
