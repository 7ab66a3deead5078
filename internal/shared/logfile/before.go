package logfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"mbus/internal/shared/logline"
)

// CheckNamed returns an error if FILE, which is open as file and is in the list, must not be
// appended to. That is so if it is not a log, if a file of the same log with a greater number is
// beside it, or if last has a greater number. last is the header of the file that was written last,
// or zero.
func (l *List) CheckNamed(file io.ReaderAt, last Header) error {
	start, err := io.ReadAll(io.NewSectionReader(file, 0, int64(len(logline.StampFormat))))
	if err != nil {
		return err
	}
	// A log begins with a time stamp, or a part of one. A power loss can leave zeros.
	if !logline.BeginsStamp(bytes.TrimRight(start, "\x00")) {
		return errors.New("is not a log, it was left as it is")
	}
	const old = "is file %d of its log, but "
	header := l.Named.Header
	if header.Log == 0 {
		return nil
	}
	newer := l.Of(header.Log, header.Number+1, MaxNumber)
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
func (l *List) Before() *File {
	files, compare := l.Earlier, compareTimes
	if log := l.Log(0); log != 0 {
		isOther := func(file File) bool { return file.Header.Log != log }
		files, compare = slices.DeleteFunc(l.own(), isOther), compareEnds
	}
	if len(files) == 0 {
		return nil
	}
	before := slices.MaxFunc(files, compare)
	return &before
}

// compareEnds compares how far in their log two files end.
func compareEnds(a, b File) int {
	return cmp.Or(compareNumbers(a, b.Header), cmp.Compare(a.Info.Size(), b.Info.Size()))
}
