package follow

import (
	"bytes"
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
}

// at opens those of files that have position.
func at(position Position, files []logfile.File) (places []place, err error) {
	for _, from := range files {
		place, err := openAt(position, from)
		if err != nil {
			closeAll(places)
			return nil, err
		}
		if place.file != nil {
			places = append(places, place)
		}
	}
	return places, nil
}

// openAt opens the file from if it has position. Otherwise the place has no file.
func openAt(position Position, from logfile.File) (found place, err error) {
	file, err := from.Open()
	if err != nil {
		return place{}, err
	}
	found = place{file: file, from: from, offset: position.Offset}
	found.head, found.tail, err = readAround(file, position.Offset)
	if err == nil {
		found.end, err = lineEnd(file)
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

// lineEnd returns the offset after the last line of file.
func lineEnd(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return logfile.LineEnd(file, info.Size())
}

func closeAll(places []place) {
	for _, place := range places {
		place.file.Close()
	}
}

// pick returns one of places, which are in files with one number, and closes the others: one
// whose lines end where following, the files with the next number, say. If there is none, it is
// FILE, or else the longest. If another one has as good a claim and other bytes, why says so.
func pick(places []place, following []logfile.File) (best place, why string, err error) {
	claim := func(place place) int {
		fits := func(next logfile.File) bool { return next.Header.After == place.end }
		switch {
		case slices.ContainsFunc(following, fits):
			return 2
		case place.from.IsNamed:
			return 1
		}
		return 0
	}
	best = slices.MaxFunc(places, func(a, b place) int {
		return cmp.Or(claim(a)-claim(b), cmp.Compare(a.end, b.end))
	})
	for _, other := range places {
		if other.file == best.file {
			continue
		}
		if claim(other) == claim(best) && why == "" {
			var equal bool
			size := min(other.end, best.end) - best.offset
			if equal, err = sameBytes(best.file, other.file, best.offset, size); !equal {
				why = fmt.Sprintf("%s and %s are two unlike files with number %d",
					best.from.Path, other.from.Path, best.from.Header.Number)
			}
		}
		other.file.Close()
	}
	if why != "" || err != nil {
		best.file.Close()
		best = place{}
	}
	return best, why, err
}

// sameBytes reports whether a and b have the same size bytes from offset on.
func sameBytes(a, b io.ReaderAt, offset, size int64) (bool, error) {
	var blocks [2][32 << 10]byte
	for size > 0 {
		length := min(size, int64(len(blocks[0])))
		for i, file := range []io.ReaderAt{a, b} {
			if _, err := file.ReadAt(blocks[i][:length], offset); err != nil && err != io.EOF {
				return false, err
			}
		}
		if !bytes.Equal(blocks[0][:length], blocks[1][:length]) {
			return false, nil
		}
		offset, size = offset+length, size-length
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
	if len(list.Files) == 0 {
		return Position{}, &fs.PathError{Op: "open", Path: list.Path, Err: fs.ErrNotExist}
	}
	files, named := list.Of(list.Log(known)), list.Named()
	switch {
	case list.Log(known) != 0 && len(files) > 0:
		files = logfile.Numbered(files, files[len(files)-1].Header.Number)
	case named != nil && named.HasLine:
		files = []logfile.File{*named}
	default:
		return Position{}, nil
	}
	places, err := at(Position{}, files)
	if err != nil {
		return Position{}, err
	}
	last, why, err := pick(places, nil)
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
