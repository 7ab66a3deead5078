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

func (lost *LostError) Error() string {
	return fmt.Sprintf("%s: the position is lost (%v): %s", lost.Log, lost.Position, lost.Why)
}

// lose loses the position.
func (follower *Follower) lose(why string, arguments ...any) error {
	follower.lost = &LostError{
		follower.path, follower.Position(), fmt.Sprintf(why, arguments...)}
	return follower.lost
}

// miss loses the position if something has been missing for patience.
func (follower *Follower) miss(why string, arguments ...any) error {
	now := time.Now()
	if follower.missing.IsZero() {
		follower.missing = now
	}
	if now.Sub(follower.missing) < follower.patience {
		return nil
	}
	return follower.lose(why, arguments...)
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
// or, if that one is read to its end, in the next. It sets next, or waits, or loses the position.
func (follower *Follower) choose() error {
	list, position := follower.list, follower.Position()
	if log := list.Log(position.Log); log != position.Log && position.Log != 0 {
		if log == 0 {
			return follower.lose("it is another log now, and its first line does not say which")
		}
		return follower.lose("it is another log now, %016x", log)
	}
	own, earlier := list.Of(position.Log, position.Number, position.Number), []string(nil)
	if position.Log == 0 && position.Offset == 0 {
		own, earlier = oldest(list)
	} else if position.Log == 0 {
		own = slices.Concat(list.Files, list.Earlier)
	}
	stay := func() (unlike string, err error) { return follower.goOn(position, own) }
	steps := []func() (unlike string, err error){stay, follower.succeed}
	if follower.file != nil {
		slices.Reverse(steps)
	}
	var unlike string
	for _, step := range steps {
		why, err := step()
		if err != nil {
			return err
		}
		if follower.next.file != nil {
			if len(earlier) > 0 {
				follower.report(fmt.Sprintf("%s: files of an earlier version are left out: %s",
					follower.path, strings.Join(earlier, ", ")))
			}
			return nil
		}
		unlike = cmp.Or(unlike, why)
	}
	return follower.judge(position, unlike)
}

// succeed sets next to the file that begins at the position, if there is one. The end of a file
// is also the start of the file after it.
func (follower *Follower) succeed() (unlike string, err error) {
	position := follower.Position()
	if follower.list == nil || follower.file == nil && position.Log == 0 {
		return "", nil // only a file in hand can count as file 1
	}
	return follower.goOn(Position{}, successors(follower.list, position))
}

// goOn sets next to the place of position in one of files, which have one number. While a file is
// in hand, it sets only a place after which there is a line: a file that was emptied has none.
func (follower *Follower) goOn(position Position, files []logfile.File) (unlike string, err error) {
	next, unlike, err := pick(follower.list, position, files)
	if follower.file != nil && next.end <= next.offset {
		next.file.Close() // of a nil file, Close does nothing
		next = place{}
	}
	follower.next = next
	return unlike, err
}

// judge is called if no listed file has more after position. It waits without a limit, or for
// what is missing, or loses the position. unlike says which files with one number are unlike.
func (follower *Follower) judge(position Position, unlike string) error {
	later, named := after(follower.list, position), follower.list.Named
	number := position.Number
	var says int64 // the most bytes that a file with the next number says
	for _, file := range later {
		if file.Header.Number == number+1 {
			says = max(says, file.Header.After)
		}
	}
	switch {
	case unlike != "":
		return follower.miss("%s", unlike)
	case len(later) == 0 &&
		(named == nil || named.Header.Number == 0 || follower.holds(named.Info)):
		follower.missing = time.Time{}
		return nil
	case position.Log == 0 && (len(later) == 0 || follower.file == nil):
		return follower.miss("no file of the log has the bytes before it")
	case len(later) == 0 && named.Header.Number == number:
		return follower.miss("file %d was changed, and does not have it", number)
	case len(later) == 0:
		return follower.miss("the log's last file is file %d", named.Header.Number)
	case later[0].Header.Number == number+2:
		return follower.miss("file %d is missing", number+1)
	case later[0].Header.Number > number+2:
		return follower.miss("files %d to %d are missing", number+1, later[0].Header.Number-1)
	case says < position.Offset:
		return follower.lose("file %d has more than the %d bytes that file %d says",
			number, says, number+1)
	}
	return follower.miss("bytes %d to %d of file %d are missing", position.Offset, says, number)
}
