package follow

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"mbus/internal/shared/logfile"
)

// LostError reports that a position is lost: the log does not have it, or not all that follows.
type LostError struct {
	Log      string   // the path of the log
	Position Position // that is lost
	Why      string   // what is missing, or wrong
}

func (e *LostError) Error() string {
	return fmt.Sprintf("%s: the position is lost (%v): %s", e.Log, e.Position, e.Why)
}

// lose makes the position a lost one, and returns the error for it.
func (f *Follower) lose(why string, arguments ...any) error {
	f.lost = &LostError{f.path, f.Position(), fmt.Sprintf(why, arguments...)}
	return f.lost
}

// miss is lose if something has been missing for as long as the Follower's patience. Until then it
// returns nil.
func (f *Follower) miss(why string, arguments ...any) error {
	now := time.Now()
	if f.current.missing.IsZero() {
		f.current.missing = now
	}
	if now.Sub(f.current.missing) < f.patience {
		return nil
	}
	return f.lose(why, arguments...)
}

// after returns the files of the log that are after the file of position, the next one first. A
// file without a header counts as file 1 of the log.
func after(list *logfile.List, position Position) []logfile.File {
	log := position.Log
	if log == 0 {
		log = list.Log(0)
	}
	return list.Of(log, position.Number+1, logfile.MaxNumber)
}

// successors returns the files of the log that begin at position: the next files after its own,
// if they say that they begin after exactly so many bytes.
func successors(list *logfile.List, position Position) (files []logfile.File) {
	for _, file := range after(list, position) {
		if file.Header.Number > position.Number+1 {
			break
		}
		if file.Header.After == position.Offset {
			files = append(files, file)
		}
	}
	return files
}

// choose decides by the listed files how reading goes on after the position: in a file that has it
// or, if that one is read to its end, in the next. Otherwise it waits, or loses the position.
func (f *Follower) choose() (*cursor, error) {
	list, position := f.list, f.Position()
	if log := list.Log(position.Log); log != position.Log && position.Log != 0 {
		if log == 0 {
			return nil, f.lose("it is another log now, and its first line does not say which")
		}
		return nil, f.lose("it is another log now, %016x", log)
	}
	steps := []func() (next *cursor, unlike string, err error){f.own, f.successor}
	if f.current.file != nil {
		slices.Reverse(steps)
	}
	var unlike string
	for _, step := range steps {
		next, why, err := step()
		if next != nil || err != nil {
			return next, err
		}
		unlike = cmp.Or(unlike, why)
	}
	return nil, f.judge(position, unlike)
}

// open is pick for the last list. If there is a current file, open only opens a file that has a
// line after position, because a file that was emptied has none, or an equal copy in the place of
// FILE.
func (f *Follower) open(position Position, files []logfile.File) (
	next *cursor, unlike string, err error) {
	next, unlike, err = pick(f.list, position, files)
	if next == nil || f.current.file == nil || next.lines > position.Offset {
		return next, unlike, err
	}
	isCopy := position.Offset > 0 && next.from.Path == f.list.Path && !f.holds(next.from.Info)
	if !isCopy {
		next.file.Close()
		next = nil
	}
	return next, unlike, err
}

// own opens the listed file that has the position. At the start of the log, it reports which files
// are left out.
func (f *Follower) own() (next *cursor, unlike string, err error) {
	list, position := f.list, f.Position()
	files, earlier := list.Of(position.Log, position.Number, position.Number), []string(nil)
	if position.Log == 0 && position.Offset == 0 {
		files, earlier = oldest(list)
	} else if position.Log == 0 {
		files = slices.Concat(list.Files, list.Earlier)
	}
	next, unlike, err = f.open(position, files)
	if next != nil && len(earlier) > 0 {
		f.report(fmt.Sprintf("%s: files of an earlier version are left out: %s",
			f.path, strings.Join(earlier, ", ")))
	}
	return next, unlike, err
}

// successor opens the listed file that begins at the position, if there is one. The end of a file
// is also the start of the file after it.
func (f *Follower) successor() (next *cursor, unlike string, err error) {
	position := f.Position()
	if f.list == nil || f.current.file == nil && position.Log == 0 {
		return nil, "", nil // only a file that was read can count as file 1
	}
	return f.open(Position{}, successors(f.list, position))
}

// judge is called if no listed file has more after position. It returns nil while something can be
// waited for, and then the error for a lost position. unlike is that of pick.
func (f *Follower) judge(position Position, unlike string) error {
	later, named := after(f.list, position), f.list.Named
	number := position.Number
	first := number + 1 // the first file that is missing, if a whole file is
	if position.Offset == 0 {
		first = number
	}
	var says int64 // the most bytes that a file with the next number says
	for _, file := range later {
		if file.Header.Number == number+1 {
			says = max(says, file.Header.After)
		}
	}
	switch {
	case unlike != "":
		return f.miss("%s", unlike)
	case len(later) == 0 &&
		(named == nil || named.Header.Number == 0 || f.holds(named.Info)):
		f.current.missing = time.Time{}
		return nil
	case position.Log == 0 && (len(later) == 0 || f.current.file == nil):
		return f.miss("no file of the log has the bytes before it")
	case len(later) == 0 && named.Header.Number == number:
		return f.miss("file %d was changed, and does not have it", number)
	case len(later) == 0:
		return f.miss("the log's last file is file %d", named.Header.Number)
	case later[0].Header.Number == first+1:
		return f.miss("file %d is missing", first)
	case later[0].Header.Number > first+1:
		return f.miss("files %d to %d are missing", first, later[0].Header.Number-1)
	case says < position.Offset:
		return f.lose("file %d has more than the %d bytes that file %d says",
			number, says, number+1)
	}
	return f.miss("bytes %d to %d of file %d are missing", position.Offset, says, number)
}
