package logfile

import (
	"bytes"
	"cmp"
	"io"
	"path/filepath"

	"mbus/internal/shared/logline"
)

// IsLog reports whether file begins as a line of a log does, as far as its bytes go. So does an
// empty file, and one that begins with zeros, which a power loss can leave.
func IsLog(file io.ReaderAt) (bool, error) {
	start := make([]byte, len(logline.StampFormat))
	count, err := file.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	return logline.BeginsStamp(bytes.TrimRight(start[:count], "\x00")), nil
}

// Newer returns the last file of FILE's log if its number is greater than FILE's, and otherwise
// nil. FILE must be in the list, and have a header.
func (list *List) Newer() *File {
	header := list.Named().Header
	files := list.Of(header.Log)
	if last := &files[len(files)-1]; last.Header.Number > header.Number {
		return last
	}
	return nil
}

// Before returns the file that is before FILE, which has no whole line, or nil if there is none.
// Of the log whose headers name FILE it is the file with the greatest number, and of several with
// that number the longest. If there are no headers it is the file that begins with a time stamp and
// was modified last.
func (list *List) Before() (before *File) {
	log := list.Log(0)
	files := list.Of(log)
	for i := range files {
		file := &files[i]
		isOurs := file.Header.Name == filepath.Base(list.Path) || log == 0 && file.IsStamped
		if isOurs && !file.IsNamed && (before == nil || file.isAfter(before)) {
			before = file
		}
	}
	return before
}

// isAfter reports whether file is after other in their log.
func (file *File) isAfter(other *File) bool {
	if file.Header.Log == 0 {
		return file.Info.ModTime().After(other.Info.ModTime())
	}
	return cmp.Or(cmp.Compare(file.Header.Number, other.Header.Number),
		cmp.Compare(file.Info.Size(), other.Info.Size())) > 0
}
