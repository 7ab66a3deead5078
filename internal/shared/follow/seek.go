package follow

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"mbus/internal/shared/logfile"
)

// Start returns the position at the start of the log's oldest file. It is the zero Position if
// the log has no line yet.
func (f *Follower) Start() (Position, error) {
	list, err := f.listFiles(f.path)
	if err != nil {
		return Position{}, err
	}
	return start(list), nil
}

// End returns the position after the log's last line. It is the zero Position if the log has no
// line. The error is fs.ErrNotExist if the log has no file.
func (f *Follower) End() (found Position, err error) {
	for {
		list, err := f.listFiles(f.path)
		if err == nil {
			found, err = end(list, f.Position().Log)
		}
		if err != logfile.ErrChanged {
			return found, err
		}
	}
}

// Recover returns the position at which to go on after position, if that is lost. If the file of
// position is there without it, this is the start of that file, else that of the next file there
// is, else that of FILE. If FILE is of another log, or if position does not say its log, it is
// the start of the log. If position is not lost, Recover returns it. It decides at once by what is
// there. Afterwards the Follower's own position is undefined until Seek sets it.
func (f *Follower) Recover(position Position) (Position, error) {
	f.patience = 0
	defer func() { f.patience = Patience }()
	f.enter(&cursor{sought: position}) // not in the current file, so that the files are listed
	f.list, f.lost = nil, nil
	var err error
	for err == nil && f.list == nil { // again if a file was changed meanwhile
		_, err = f.Next()
	}
	if !errors.As(err, new(*LostError)) {
		return position, err
	}
	list := f.list
	files := after(list, position)
	if f.current.file == nil {
		files = list.Of(position.Log, position.Number, logfile.MaxNumber)
	}
	if len(files) == 0 && list.Named != nil {
		files = []logfile.File{*list.Named}
	}
	if len(files) == 0 || list.Log(position.Log) != position.Log {
		return start(list), nil
	}
	return startOf(files[0]), nil
}

// oldest returns the files that are the oldest of the log: those with the lowest number. If this
// is 2, a file without a header that has exactly the bytes that file 2 says is file 1. earlier are
// the names of the other files without a header.
func oldest(list *logfile.List) (files []logfile.File, earlier []string) {
	all := list.Of(list.Log(0), 1, logfile.MaxNumber)
	if len(all) == 0 {
		return nil, nil
	}
	lowest := all[0].Header
	for _, file := range list.Earlier {
		end := Position{Number: 1, Offset: file.Lines}
		if lowest.Number == 2 && len(successors(list, end)) > 0 {
			files = append(files, file)
		} else {
			earlier = append(earlier, filepath.Base(file.Path))
		}
	}
	if len(files) == 0 {
		files = list.Of(lowest.Log, lowest.Number, lowest.Number)
	}
	return files, earlier
}

// start returns the position at the start of the oldest file.
func start(list *logfile.List) Position {
	files, _ := oldest(list)
	if len(files) == 0 {
		return Position{}
	}
	return startOf(files[0])
}

// startOf returns the position at the start of file.
func startOf(file logfile.File) Position {
	return Position{Log: file.Header.Log, Number: file.Header.Number}
}

// end returns the position after the last line of the log. It is the zero Position if the log
// has no line.
func end(list *logfile.List, known uint64) (Position, error) {
	if list.Named == nil && len(list.Files)+len(list.Earlier) == 0 {
		return Position{}, &fs.PathError{Op: "open", Path: list.Path, Err: fs.ErrNotExist}
	}
	files := list.Of(list.Log(known), 1, logfile.MaxNumber)
	if len(files) == 0 {
		return Position{}, nil
	}
	end := startOf(files[len(files)-1])
	last, unlike, err := pick(list, Position{}, list.Of(end.Log, end.Number, end.Number))
	if err != nil || unlike != "" {
		return Position{}, cmp.Or(err, fmt.Errorf("%s: %s", list.Path, unlike))
	}
	defer last.file.Close()
	return last.positionAt(last.lines)
}
