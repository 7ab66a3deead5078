package consumer

import (
	"fmt"
	"hash/crc32"
	"os"

	"mbus/internal/shared/osfile"
)

// markSize is how many bytes at the end of an output identify it.
const markSize = 1 << 10

// mark says what an output file had at the saved position. The zero mark is of no file.
type mark struct {
	inode    uint64
	length   int64
	checksum uint32 // CRC-32 (IEEE) of the last markSize bytes of that length, or all
}

// appended is an output that is a regular file opened for appending. No other process writes to
// it. A nil one is another kind of output.
type appended struct {
	file   *os.File // for writing
	reader *os.File // the same file
	saved  mark     // what it had at the saved position
	excess int64    // how many more bytes it has, which must be cut off
}

// openAppended returns the appended of an output, or nil if it is another kind of output. The mark
// is that of the state.
func openAppended(file *os.File, saved mark) (a *appended, err error) {
	reader := osfile.OpenAppended(file)
	if reader == nil {
		return nil, nil
	}
	a = &appended{file: file, reader: reader, saved: saved}
	info, err := reader.Stat()
	if err != nil || saved == (mark{}) || info.Size() <= saved.length {
		return a, err
	}
	now, err := a.markAt(info, saved.length)
	if err == nil && now == saved {
		a.excess = info.Size() - saved.length
	}
	return a, err
}

// markAt returns the mark of the first length bytes of the file, which info describes.
func (a *appended) markAt(info os.FileInfo, length int64) (mark, error) {
	tail := make([]byte, min(length, markSize))
	count, err := a.reader.ReadAt(tail, length-int64(len(tail)))
	if count < len(tail) {
		return mark{}, err
	}
	return mark{osfile.Inode(info), length, crc32.ChecksumIEEE(tail)}, nil
}

// mark returns the mark for the state. It must be called after the output was flushed.
func (a *appended) mark() (now mark, err error) {
	if a == nil {
		return mark{}, nil
	}
	if a.excess > 0 { // no line was taken: the output is as it was saved
		return a.saved, nil
	}
	info, err := a.reader.Stat()
	if err == nil {
		now, err = a.markAt(info, info.Size())
	}
	if err != nil {
		return mark{}, fmt.Errorf("standard output: %w", err)
	}
	return now, nil
}

// cut cuts off what the saved position does not count: a kill or a full disk has left it, and all
// of its messages come again. It reports that. It must be called when the first line has shown that
// the log has the position.
func (a *appended) cut(report func(line string)) error {
	if a == nil || a.excess == 0 {
		return nil
	}
	if err := a.file.Truncate(a.saved.length); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	report(fmt.Sprintf("standard output: cut off %d bytes after the saved "+
		"position; their messages are written again", a.excess))
	a.excess = 0
	return nil
}

// close closes the reader.
func (a *appended) close() {
	if a != nil {
		a.reader.Close()
	}
}
