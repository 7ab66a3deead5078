package follow

import (
	"cmp"
	"errors"
	"fmt"
	"io"
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
func (follower *Follower) lose(why string) error {
	follower.lost = &LostError{follower.path, follower.Position(), why}
	return follower.lost
}

// miss loses the position if something has been missing for patience.
func (follower *Follower) miss(why string) error {
	now := time.Now()
	if follower.missing.IsZero() {
		follower.missing = now
	}
	if now.Sub(follower.missing) < follower.patience {
		return nil
	}
	return follower.lose(why)
}

// log returns the log and the file that position is in. A file without a number counts as file 1.
func (follower *Follower) log(position Position) (log uint64, number int64) {
	if position.Number == 0 {
		return follower.list.Log(0), 1
	}
	return position.Log, position.Number
}

// succeed sets next to the file that begins at the position, if there is one. The end of a file
// is also the start of the file after it. If there are unlike ones, why says so.
func (follower *Follower) succeed() (why string, err error) {
	position := follower.Position()
	if follower.list == nil || follower.file == nil && position.Number == 0 {
		return "", nil // only a file in hand can count as file 1
	}
	log, number := follower.log(position)
	files := follower.list.Of(log)
	var fitting []logfile.File
	for _, file := range logfile.Numbered(files, number+1) {
		if file.Header.After == position.Offset {
			fitting = append(fitting, file)
		}
	}
	follower.next, why, err = pick(Position{}, fitting, logfile.Numbered(files, number+2))
	return why, err
}

// choose decides by the listed files how reading goes on after the position: in a file that has it
// or, if that one is read to its end, in the next. It sets next, or waits, or loses the position.
func (follower *Follower) choose() error {
	position := follower.Position()
	if position == (Position{}) && follower.file == nil {
		return follower.begin()
	}
	log, number := follower.log(position)
	if is := follower.list.Log(log); is != log {
		return follower.lose(fmt.Sprintf("it is another log now, %016x", is))
	}
	files := follower.list.Of(log)
	own, following := logfile.Numbered(files, number), logfile.Numbered(files, number+1)
	if position.Number == 0 {
		own = follower.list.Files
	}
	stay := func() (why string, err error) {
		follower.next, why, err = pick(position, own, following)
		if follower.file != nil && follower.next.end <= position.Offset {
			follower.next.file.Close() // it has no more than the file in hand, or is none
			follower.next = place{}
		}
		return why, err
	}
	steps := []func() (string, error){stay, follower.succeed}
	if follower.file != nil {
		slices.Reverse(steps)
	}
	unlike := ""
	for _, step := range steps {
		why, err := step()
		if err != nil || follower.next.file != nil {
			return err
		}
		unlike = cmp.Or(unlike, why)
	}
	if unlike != "" {
		return follower.miss(unlike)
	}
	return follower.judge(position, files, following)
}

// begin sets next to the start of the log.
func (follower *Follower) begin() error {
	files, earlier, err := oldest(follower.list)
	if err != nil || len(files) == 0 {
		follower.missing = time.Time{}
		return err
	}
	number := max(files[0].Header.Number, 1)
	following := logfile.Numbered(follower.list.Of(follower.list.Log(0)), number+1)
	next, why, err := pick(Position{}, files, following)
	follower.next = next
	if why != "" {
		return follower.miss(why)
	}
	if err == nil && len(earlier) > 0 {
		follower.report(fmt.Sprintf("%s: files of an earlier version are left out: %s",
			follower.path, strings.Join(earlier, ", ")))
	}
	return err
}

// judge is called if no listed file has more after position. It waits without a limit, or for
// what is missing, or loses the position. files are those of the log, following are those with
// the next number.
func (follower *Follower) judge(position Position, files, following []logfile.File) error {
	number, named := max(position.Number, 1), follower.list.Named()
	at := slices.IndexFunc(files, func(file logfile.File) bool {
		return file.Header.Number > number
	})
	var after int64 // the most bytes that a file with the next number says
	for _, file := range following {
		after = max(after, file.Header.After)
	}
	switch {
	case len(following) > 0 && after < position.Offset:
		return follower.lose(fmt.Sprintf("file %d has more than the %d bytes that file %d says",
			number, after, number+1))
	case len(following) > 0:
		return follower.miss(fmt.Sprintf("bytes %d to %d of file %d are missing",
			position.Offset, after, number))
	case at >= 0 && files[at].Header.Number == number+2:
		return follower.miss(fmt.Sprintf("file %d is missing", number+1))
	case at >= 0:
		return follower.miss(fmt.Sprintf("files %d to %d are missing",
			number+1, files[at].Header.Number-1))
	case named == nil || !named.HasLine || follower.holds(named.Info):
		follower.missing = time.Time{}
		return nil
	case position.Number == 0:
		return follower.miss("no file of the log has the bytes before it")
	case named.Header.Number == number:
		return follower.miss(fmt.Sprintf("file %d was changed, and does not have it", number))
	}
	return follower.miss(fmt.Sprintf("the log's last file is file %d", named.Header.Number))
}

// Start returns the position at the start of the log's oldest file. It is the zero Position if
// the log has no line yet.
func (follower *Follower) Start() (Position, error) {
	return follower.find(start)
}

// End returns the position after the log's last line. It is the zero Position if the log has no
// line. The error is fs.ErrNotExist if the log has no file.
func (follower *Follower) End() (Position, error) {
	return follower.find(func(list *logfile.List) (Position, error) {
		return end(list, follower.Position().Log)
	})
}

// Recover returns the position at which to go on after position, if that is lost. If the file of
// position is there without it, this is the start of that file, else that of the next file there
// is, else that of FILE. If FILE is of another log, or if position does not say its log, it is
// the start of the log. If position is not lost, Recover returns it. It decides at once by what is
// there. Afterwards the Follower is elsewhere.
func (follower *Follower) Recover(position Position) (Position, error) {
	follower.patience = 0
	defer func() { follower.patience = patience }()
	follower.Seek(position)
	line, err := follower.Next()
	for line == nil && err == nil && follower.list == nil { // a file was changed meanwhile
		line, err = follower.Next()
	}
	if !errors.As(err, new(*LostError)) {
		return position, err
	}
	list := follower.list
	if position.Number == 0 || list.Log(position.Log) != position.Log {
		return start(list)
	}
	for _, file := range list.Of(position.Log) {
		number := file.Header.Number
		if number > position.Number || number == position.Number && follower.file == nil {
			return startOf(file), nil
		}
	}
	if named := list.Named(); named != nil && named.Header.Log == position.Log {
		return startOf(*named), nil
	}
	return start(list)
}

// find returns a place in the files that the log has now.
func (follower *Follower) find(place func(list *logfile.List) (Position, error)) (
	found Position, err error) {
	for {
		list, err := follower.lister.List()
		if err == nil {
			found, err = place(list)
		}
		if !errors.Is(err, logfile.ErrChanged) && !errors.Is(err, io.EOF) {
			return found, err
		}
	}
}
