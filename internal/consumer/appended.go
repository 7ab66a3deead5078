package consumer

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"mbus/internal/shared/osfile"
)

const (
	// markFormat is the form of a mark in the note of a state. It has at most 49 bytes while the
	// file has less than 10,000 TB.
	markFormat = "output %x %d %08x"

	// markSize is how many bytes at the end of an output identify it.
	markSize = 1 << 10
)

// mark says what an output file had at the saved position. The zero mark is of no file.
type mark struct {
	inode    uint64
	length   int64
	checksum uint32 // CRC-32 (IEEE) of the last markSize bytes of that length, or all
}

// String returns the mark as it is in a note.
func (m mark) String() string {
	return fmt.Sprintf(markFormat, m.inode, m.length, m.checksum)
}

// parseMark parses a note that is a mark.
func parseMark(note string) (found mark, isMark bool) {
	_, err := fmt.Sscanf(note, markFormat, &found.inode, &found.length, &found.checksum)
	return found, err == nil && found.length >= 0 && found.String() == note
}

// appended is an output that is a regular file opened for appending. No other process writes to
// it.
type appended struct {
	file   *os.File // for writing
	reader *os.File // the same file
}

// newAppended returns the appended of file, or nil if file is another kind of output.
func newAppended(file *os.File) *appended {
	if reader := osfile.OpenAppended(file); reader != nil {
		return &appended{file, reader}
	}
	return nil
}

// mark returns a mark of what the file has now.
func (a *appended) mark() (mark, error) {
	info, err := a.reader.Stat()
	if err != nil {
		return mark{}, err
	}
	return a.markAt(osfile.Inode(info), info.Size())
}

// markAt returns the mark of the file's first length bytes. The error is io.EOF if it has fewer.
func (a *appended) markAt(inode uint64, length int64) (mark, error) {
	tail := make([]byte, min(length, markSize))
	count, err := a.reader.ReadAt(tail, length-int64(len(tail)))
	if count < len(tail) {
		return mark{}, err
	}
	return mark{inode, length, crc32.ChecksumIEEE(tail)}, nil
}

// beyond returns how many bytes the file has after those of old, or 0 if it is not the file of
// old.
func (a *appended) beyond(old mark) (int64, error) {
	info, err := a.reader.Stat()
	if err != nil || info.Size() <= old.length {
		return 0, err
	}
	now, err := a.markAt(osfile.Inode(info), old.length)
	if err == io.EOF || err == nil && now != old {
		return 0, nil
	}
	return info.Size() - old.length, err
}

// close closes the reader.
func (a *appended) close() {
	if a != nil {
		a.reader.Close()
	}
}

// openOutput finds out whether the output is a file that each message is in once, and whether it
// has more than the saved position counts.
func (c *Consumer) openOutput() (err error) {
	if c.config.State == "" || c.output == nil {
		return nil
	}
	if c.appended = newAppended(c.config.Output); c.appended == nil {
		return nil
	}
	if old := c.window.mark(); old != (mark{}) {
		c.excess, err = c.appended.beyond(old)
	}
	return err
}

// cutOutput cuts off the output what the saved position does not count: a kill or a full disk has
// left it, and all of its messages come again. It is called when the first line has shown that the
// log has the position.
func (c *Consumer) cutOutput() error {
	if c.excess == 0 {
		return nil
	}
	info, err := c.appended.reader.Stat()
	if err == nil {
		err = c.appended.file.Truncate(info.Size() - c.excess)
	}
	if err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	c.config.Report(fmt.Sprintf("standard output: cut off %d bytes after the saved "+
		"position; their messages are written again", c.excess))
	c.excess = 0
	return nil
}

// mark returns the mark for the state. It must be called after the output was flushed.
func (c *Consumer) mark() (mark, error) {
	if c.excess > 0 { // no line was taken: position and output are as they were saved
		return c.window.mark(), nil
	}
	if c.appended == nil {
		return mark{}, nil
	}
	now, err := c.appended.mark()
	if err != nil {
		return mark{}, fmt.Errorf("standard output: %w", err)
	}
	return now, nil
}
