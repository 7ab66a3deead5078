package follow

import (
	"cmp"
	"fmt"
	"io"
	"os"

	"mbus/internal/shared/logfile"
)

// place is where reading can go on: in an open file, at an offset.
type place struct {
	file       *os.File // nil: there is no place
	from       logfile.File
	offset     int64
	head, tail []byte // they identify the position at offset
	end        int64  // after the last line that file had when it was opened
	rank       int    // higher for a file that counts before others with its number; 0: no place
}

// openAt opens the file from if it has position. Otherwise the place has no file.
func openAt(list *logfile.List, position Position, from logfile.File) (found place, err error) {
	file, err := from.Open()
	if err != nil {
		return place{}, err
	}
	found = place{file: file, from: from, offset: position.Offset, rank: 1}
	found.head, found.tail, err = readAround(file, position.Offset)
	if err == nil {
		found.end, err = logfile.LineEnd(file, from.Info.Size())
	}
	if err != nil || hash(found.head, found.tail) != position.Hash {
		file.Close()
		if err == io.EOF { // the file is shorter
			err = nil
		}
		return place{}, err
	}
	end := startOf(from)
	end.Offset = found.end
	if len(successors(list, end)) > 0 {
		found.rank = 3
	} else if from.Path == list.Path {
		found.rank = 2
	}
	return found, nil
}

// pick returns the place of position in one of files: in one whose lines end where the file with
// the next number says. If there is none, it is FILE, or else the longest. If no file has position,
// the place has no file. If another one has the same rank and other bytes, there is no place
// either, and unlike says so.
func pick(list *logfile.List, position Position, files []logfile.File) (
	best place, unlike string, err error) {
	for _, from := range files {
		one, err := openAt(list, position, from)
		isLike := true
		if err == nil && one.rank == best.rank {
			isLike, err = sameBytes(one, best)
		}
		if err != nil {
			one.file.Close() // of a nil file, Close does nothing
			best.file.Close()
			return place{}, "", err
		}
		if !isLike {
			unlike = fmt.Sprintf("%s and %s are two unlike files with number %d",
				best.from.Path, from.Path, from.Header.Number)
		}
		if one.rank > best.rank {
			unlike = ""
		}
		if cmp.Or(one.rank-best.rank, cmp.Compare(one.end, best.end)) > 0 {
			one, best = best, one
		}
		one.file.Close()
	}
	if unlike != "" {
		best.file.Close()
		best = place{}
	}
	return best, unlike, nil
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
