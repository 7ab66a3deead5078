package follow

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"mbus/internal/shared/logfile"
)

// place is where reading can go on: in an open file, at an offset.
type place struct {
	file       *os.File // nil: there is no place
	from       logfile.File
	offset     int64
	head, tail []byte // they identify the position at offset
	end        int64  // after the last line that file had when it was opened
	claim      int    // set by pick
}

// openAt opens the file from if it has position. Otherwise the place has no file.
func openAt(position Position, from logfile.File) (found place, err error) {
	file, err := from.Open()
	if err != nil {
		return place{}, err
	}
	found = place{file: file, from: from, offset: position.Offset}
	info, err := file.Stat()
	if err == nil {
		found.head, found.tail, err = readAround(file, position.Offset)
	}
	if err == nil {
		found.end, err = logfile.LineEnd(file, info.Size())
	}
	if err == nil && hash(found.head, found.tail) == position.Hash {
		return found, nil
	}
	file.Close()
	if err == io.EOF { // the file is shorter
		err = nil
	}
	return place{}, err
}

// pick returns the place of position in one of files, which have one number: in one whose lines end
// where following, the files with the next number, say. If there is none, it is FILE, or else the
// longest. If no file has position, the place has no file. If another one has as good a claim and
// other bytes, there is no place either, and why says so.
func pick(position Position, files, following []logfile.File) (best place, why string, err error) {
	for _, from := range files {
		one, err := openAt(position, from)
		isLike := true
		if one.claim = claim(one, following); err == nil && one.claim == best.claim {
			isLike, err = sameBytes(one, best)
		}
		if err != nil {
			one.file.Close() // of a nil file, Close does nothing
			best.file.Close()
			return place{}, "", err
		}
		if !isLike {
			why = fmt.Sprintf("%s and %s are two unlike files with number %d",
				best.from.Path, from.Path, from.Header.Number)
		}
		if one.claim > best.claim {
			why = ""
		}
		if cmp.Or(one.claim-best.claim, cmp.Compare(one.end, best.end)) > 0 {
			one, best = best, one
		}
		one.file.Close()
	}
	if why != "" {
		best.file.Close()
		best = place{}
	}
	return best, why, nil
}

// claim returns a number that is higher for a file that counts before others with its number, and
// 0 for no place.
func claim(place place, following []logfile.File) int {
	fits := func(next logfile.File) bool { return next.Header.After == place.end }
	switch {
	case place.file == nil:
		return 0
	case slices.ContainsFunc(following, fits):
		return 3
	case place.from.IsNamed:
		return 2
	}
	return 1
}

// sameBytes reports whether two places have the same lines, as far as both go.
func sameBytes(a, b place) (bool, error) {
	var blocks [2][32 << 10]byte
	for offset, end := a.offset, min(a.end, b.end); offset < end; offset += int64(len(blocks[0])) {
		length := min(end-offset, int64(len(blocks[0])))
		_, err := a.file.ReadAt(blocks[0][:length], offset)
		if err == nil {
			_, err = b.file.ReadAt(blocks[1][:length], offset)
		}
		if err != nil || blocks[0] != blocks[1] {
			return false, err
		}
	}
	return true, nil
}

// oldest returns the files that are the oldest of the log: those with the lowest number. If this
// is 2, a file without a header that has exactly the bytes that file 2 says is file 1. If FILE
// has lines and no header, it alone is the log. earlier are the other files without a header that
// begin as a log does.
func oldest(list *logfile.List) (files []logfile.File, earlier []string, err error) {
	named := list.Named()
	if log := list.Log(0); log != 0 {
		files = list.Of(log)
		files = logfile.Numbered(files, files[0].Header.Number)
	} else if named != nil && named.HasLine {
		files = []logfile.File{*named}
	}
	var first []logfile.File // that are file 1
	for _, file := range list.Of(0) {
		if file.IsNamed || !file.IsStamped {
			continue
		}
		if len(files) > 0 && files[0].Header.Number == 2 {
			place, err := openAt(Position{}, file)
			if err != nil {
				return nil, nil, err
			}
			place.file.Close()
			if place.end > 0 && place.end == files[0].Header.After {
				first = append(first, file)
				continue
			}
		}
		earlier = append(earlier, filepath.Base(file.Path))
	}
	if len(first) > 0 {
		files = first
	}
	return files, earlier, nil
}

// start returns the position at the start of the oldest file.
func start(list *logfile.List) (Position, error) {
	files, _, err := oldest(list)
	if len(files) == 0 || err != nil {
		return Position{}, err
	}
	return startOf(files[0]), nil
}

// startOf returns the position at the start of file.
func startOf(file logfile.File) Position {
	return Position{Log: file.Header.Log, Number: file.Header.Number}
}

// end returns the position after the last line of the log. It is the zero Position if the log
// has no line.
func end(list *logfile.List, known uint64) (end Position, err error) {
	log, named := list.Log(known), list.Named()
	files := list.Of(log)
	switch {
	case len(list.Files) == 0:
		return Position{}, &fs.PathError{Op: "open", Path: list.Path, Err: fs.ErrNotExist}
	case log != 0 && len(files) > 0:
		files = logfile.Numbered(files, files[len(files)-1].Header.Number)
	case named != nil && named.HasLine:
		files = []logfile.File{*named}
	default:
		return Position{}, nil
	}
	last, why, err := pick(Position{}, files, nil)
	if err != nil || why != "" {
		return Position{}, cmp.Or(err, fmt.Errorf("%s: %s", list.Path, why))
	}
	defer last.file.Close()
	end = startOf(last.from)
	end.Offset = last.end
	head, tail, err := readAround(last.file, end.Offset)
	end.Hash = hash(head, tail)
	return end, err
}
