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

// listPatience limits how long list waits for two equal looks at the files of a log.
const listPatience = 10 * time.Second

// errChanged reports that a file of a log was renamed, removed or truncated after it was
// listed, so that the log must be listed again.
var errChanged = errors.New("the file has changed since it was listed")

// entry is one file of a log.
type entry struct {
	suffix string // of its name, after the log's; empty: it has the log's name
	path   string
	info   fs.FileInfo
}

// list returns the files that belong to the log at path, the oldest first. A rotation moves
// names from file to file, so list looks until it has seen the same files with the same names
// twice in a row.
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

// glimpse looks once at the names, and then at the files. A rename between the two can hide
// a file.
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

// isRotated reports whether suffix is one that rotation adds to a log's name, a number or a
// date: whether it matches [.-][0-9][0-9.-]*.
func isRotated(suffix string) bool {
	const digits = "0123456789"
	return len(suffix) >= 2 && strings.IndexByte(".-", suffix[0]) >= 0 &&
		strings.IndexByte(digits, suffix[1]) >= 0 && strings.Trim(suffix, digits+".-") == ""
}

func sameEntry(a, b entry) bool {
	return a.suffix == b.suffix && os.SameFile(a.info, b.info)
}

// compareAge orders the files of a log, the oldest first, by their modification times and
// then by their suffixes. The file that has the log's name is last.
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
	isCount := func(numbers []string) bool {
		return len(numbers) == 1 && len(numbers[0]) <= counted
	}
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

// open opens the file of entry. The error is errChanged if another file or none has its name.
func (entry entry) open() (*os.File, error) {
	file, err := os.Open(entry.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errChanged
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && os.SameFile(info, entry.info) {
		return file, nil
	}
	file.Close()
	return nil, cmp.Or(err, errChanged)
}

// endOf returns the position after the last line of files, which are the oldest first.
func endOf(files []entry) (end Position, err error) {
	for _, entry := range slices.Backward(files) {
		file, err := entry.open()
		if err != nil {
			return Position{}, err
		}
		last, found, err := lastLine(file)
		file.Close()
		if err == io.EOF {
			err = errChanged
		}
		if found || err != nil {
			return last, err
		}
		end.Time = max(end.Time, entry.info.ModTime().UnixNano())
	}
	return end, nil
}

// lastLine returns the position after the last line of file. If file has no line, found is
// false. If file is truncated during the call, the error is io.EOF.
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
