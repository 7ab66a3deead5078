package logfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"mbus/internal/shared/logline"
)

// CheckNamed returns an error if FILE, which is open as file and is in the list, must not be
// appended to. That is so if it is not a log, if a file of the same log with a greater number is
// beside it, or if last has a greater number. last is the header of the file that was written last,
// or zero.
func (list *List) CheckNamed(file io.ReaderAt, last Header) error {
	start := make([]byte, len(logline.StampFormat))
	count, err := file.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return err
	}
	// A log begins with a time stamp, or a part of one. A power loss can leave zeros.
	if !logline.BeginsStamp(bytes.TrimRight(start[:count], "\x00")) {
		return errors.New("is not a log, it was left as it is")
	}
	const old = "is file %d of its log, but "
	header := list.Named.Header
	if header.Log == 0 {
		return nil
	}
	newer := list.Of(header.Log, header.Number+1, MaxNumber)
	if count := len(newer); count > 0 {
		return fmt.Errorf(old+"%s beside it is file %d",
			header.Number, filepath.Base(newer[count-1].Path), newer[count-1].Header.Number)
	}
	if header.Log == last.Log && header.Number < last.Number {
		return fmt.Errorf(old+"file %d was written last", header.Number, last.Number)
	}
	return nil
}

// Before returns the file that is before FILE, which has no whole line, or nil if there is none.
// Of the log whose headers name FILE it is the file with the greatest number, and of several with
// that number the longest. If there are no headers it is the file that begins with a time stamp and
// was modified last.
func (list *List) Before() (before *File) {
	log := list.Log(0)
	files := list.Of(log, 1, MaxNumber)
	if log == 0 {
		files = list.Earlier
	}
	for i := range files {
		file := &files[i]
		isOurs := log == 0 || file.Header.Name == filepath.Base(list.Path)
		if isOurs && (before == nil || file.isAfter(before)) {
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
