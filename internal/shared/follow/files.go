package follow

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// listPatience is how long the files of a log may go on changing while they are
// listed.
const listPatience = 10 * time.Second

// entry is one file of a log.
type entry struct {
	suffix string // what follows the log's name; empty: the log itself
	path   string
	info   fs.FileInfo
}

// list returns the files that belong to the log at path, the oldest first. Names
// move from file to file during a rotation, so it lists until it has seen the same
// files under the same names twice.
func list(path string) ([]entry, error) {
	before, err := glimpse(path)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(listPatience); ; {
		after, err := glimpse(path)
		if err != nil {
			return nil, err
		}
		if slices.EqualFunc(before, after, sameEntry) {
			slices.SortStableFunc(after, compareAge)
			return after, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s: its files are renamed faster than they can be listed", path)
		}
		before = after
	}
}

// glimpse is one look at the names and then at the files, which may have been
// renamed meanwhile.
func glimpse(path string) ([]entry, error) {
	directory, base := filepath.Split(path)
	names, err := os.ReadDir(filepath.Clean(directory))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	suffixes := []string{""}
	for _, name := range names {
		if suffix, found := strings.CutPrefix(name.Name(), base); found && isRotated(suffix) {
			suffixes = append(suffixes, suffix)
		}
	}
	var entries []entry
	for _, suffix := range suffixes {
		info, err := os.Stat(path + suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case info.Mode().IsRegular():
			entries = append(entries, entry{suffix, path + suffix, info})
		case suffix == "":
			return nil, fmt.Errorf("%s: must be a regular file", path)
		}
	}
	return entries, nil
}

// Belongs reports whether a file at path would belong to the log at logPath. It compares the
// paths alone.
func Belongs(path, logPath string) bool {
	suffix, found := strings.CutPrefix(filepath.Clean(path), filepath.Clean(logPath))
	return found && (suffix == "" || isRotated(suffix))
}

// isRotated reports whether suffix is what rotation adds to a log's name, as a
// number or a date: it matches [.-][0-9][0-9.-]*.
func isRotated(suffix string) bool {
	const digits = "0123456789"
	return len(suffix) >= 2 && strings.IndexByte(".-", suffix[0]) >= 0 &&
		strings.IndexByte(digits, suffix[1]) >= 0 && strings.Trim(suffix, digits+".-") == ""
}

func sameEntry(a, b entry) bool {
	return a.suffix == b.suffix && os.SameFile(a.info, b.info)
}

// compareAge orders the files of a log, the oldest first: by the times of their last
// change, where these are equal by their names, and the log itself last.
func compareAge(a, b entry) int {
	switch {
	case a.suffix == "":
		return 1
	case b.suffix == "":
		return -1
	}
	return cmp.Or(a.info.ModTime().Compare(b.info.ModTime()), compareSuffixes(a.suffix, b.suffix))
}

// compareSuffixes orders .2 before .1, and an earlier date before a later one.
func compareSuffixes(a, b string) int {
	numbers := func(suffix string) []string {
		return strings.FieldsFunc(suffix, func(r rune) bool { return r == '.' || r == '-' })
	}
	const counted = 4 // a longer number is a date
	isCount := func(numbers []string) bool { return len(numbers) == 1 && len(numbers[0]) <= counted }
	compare := func(a, b string) int {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(len(a)-len(b), strings.Compare(a, b))
	}
	x, y := numbers(a), numbers(b)
	switch {
	case isCount(x) && isCount(y):
		return compare(y[0], x[0])
	case isCount(x):
		return 1
	case isCount(y):
		return -1
	}
	return cmp.Or(slices.CompareFunc(x, y, compare), strings.Compare(a, b))
}

// open opens the file of a listing; nil: it has been renamed or removed since.
func (entry entry) open() (*os.File, error) {
	file, err := os.Open(entry.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && os.SameFile(info, entry.info) {
		return file, nil
	}
	file.Close()
	return nil, err
}

// endOf returns the position after the last line of files, which are the oldest first.
// Where one of them has been renamed since the listing, this is to be done anew.
func endOf(files []entry) (end Position, renamed bool, err error) {
	for _, entry := range slices.Backward(files) {
		file, err := entry.open()
		if err != nil || file == nil {
			return Position{}, true, err
		}
		last, found, err := lastLine(file)
		file.Close()
		if err == io.EOF {
			return Position{}, true, nil // truncated meanwhile
		}
		if found || err != nil {
			return last, false, err
		}
		end.Time = max(end.Time, entry.info.ModTime().UnixNano())
	}
	return end, false, nil
}

// lastLine returns the position after the last line of file; found is false if it
// has none, and the error io.EOF if it becomes shorter meanwhile.
func lastLine(file *os.File) (position Position, found bool, err error) {
	info, err := file.Stat()
	if err != nil {
		return Position{}, false, err
	}
	block := make([]byte, readSize)
	for end := info.Size(); end > 0; {
		start := max(end-readSize, 0)
		block = block[:end-start]
		if count, err := file.ReadAt(block, start); count < len(block) {
			return Position{}, false, err
		}
		if at := bytes.LastIndexByte(block, '\n'); at >= 0 {
			offset := start + int64(at) + 1
			head, tail, err := readAround(file, offset)
			if err != nil {
				return Position{}, false, err
			}
			return positionAfter(offset, head, tail), true, nil
		}
		end = start
	}
	return Position{}, false, nil
}
