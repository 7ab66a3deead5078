package logfile

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

	"mbus/internal/shared/logline"
)

const (
	// listPatience limits how long List waits for two equal looks at the files.
	listPatience = 10 * time.Second

	// namesAtOnce limits how many names of a directory are in memory at once.
	namesAtOnce = 1000

	// maxLinks limits how many symbolic links Resolve follows for one path.
	maxLinks = 40
)

// ErrChanged reports that a file was renamed, removed or cut while it was looked at.
var ErrChanged = errors.New("the file is renamed or cut at the same time")

// File is FILE, or a file beside it whose name is like that of a rotated file.
type File struct {
	Path   string
	Info   fs.FileInfo // of the file that Path leads to
	Header Header      // without a header, a file is file 1 of log 0; FILE without a line, file 0
	Lines  int64       // how many bytes its whole lines have; 0 if it has a header
}

// List has the files that FILE and the names beside it lead to, at one moment. A file with
// several names is in it once, and one that does not begin as a log does is not in it.
type List struct {
	Path    string // of FILE, resolved
	Named   *File  // FILE; nil: it is missing
	Files   []File // with a header, or FILE; in the order of their logs and their numbers
	Earlier []File // without a header, and not FILE; in the order of their names
}

// Of returns the files of log that have the numbers from first to last, the lowest number first.
// Of log 0 this is FILE without a header.
func (l *List) Of(log uint64, first, last int64) []File {
	from, after := Header{Log: log, Number: first}, Header{Log: log, Number: last + 1}
	start, _ := slices.BinarySearchFunc(l.Files, from, compareNumbers)
	end, _ := slices.BinarySearchFunc(l.Files, after, compareNumbers)
	return l.Files[start:max(start, end)]
}

// compareNumbers compares the log and the number of file with those of header.
func compareNumbers(file File, header Header) int {
	return cmp.Or(cmp.Compare(file.Header.Log, header.Log),
		cmp.Compare(file.Header.Number, header.Number))
}

// compareTimes compares when two files were modified.
func compareTimes(a, b File) int { return a.Info.ModTime().Compare(b.Info.ModTime()) }

// Log returns the id of the log that the files make up. It is that of FILE, or 0 if FILE has
// lines and no header. If FILE is missing or has no whole line, it is known, which is the id that
// the caller knows. If known is 0, it is that of the files whose headers name FILE. If these are
// of several logs, it is that of the file that was modified last.
func (l *List) Log(known uint64) uint64 {
	if l.Named != nil && l.Named.Header.Number > 0 {
		return l.Named.Header.Log
	}
	if known != 0 {
		return known
	}
	if files := l.own(); len(files) > 0 {
		return slices.MaxFunc(files, compareTimes).Header.Log
	}
	return 0
}

// own returns the files whose headers name FILE. They may be of several logs.
func (l *List) own() (files []File) {
	for _, file := range l.Files {
		if file.Header.Log != 0 && file.Header.Name == filepath.Base(l.Path) {
			files = append(files, file)
		}
	}
	return files
}

// Resolve returns the path of the file that path finally names: it follows symbolic links, also
// if that file is missing. If its directory is missing, Resolve returns the path to it so far.
func Resolve(path string) (string, error) {
	for range maxLinks {
		directory, base := filepath.Split(path)
		if target, err := os.Readlink(path); err == nil {
			// Not filepath.Join, which would take the part before .. away unseen.
			if path = target; !filepath.IsAbs(target) {
				path = directory + target
			}
			continue
		}
		directory, err := filepath.EvalSymlinks(cmp.Or(directory, "."))
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
		return filepath.Join(directory, base), err
	}
	return "", fmt.Errorf("%s: too many levels of symbolic links", path)
}

// NewList is List of a new Lister.
func NewList(path string) (*List, error) { return new(Lister).List(path) }

// Lister lists the files of a log again and again. It opens a file again only if its size or its
// time has changed, or if it is FILE, which may have been emptied. The zero Lister is ready for
// use. A Lister is not safe for concurrent use.
type Lister struct {
	known map[look][]File // the files of the last List
}

// look is what a rename does not change of a file. It is equal for all names of the file.
type look struct {
	size     int64
	modified time.Time
}

// List lists the files of the log at path, which may not exist yet. A file beside FILE that can't
// be read is left out. A rotation moves names from file to file, so List looks until it has seen
// the same files twice in a row, for at most 10 seconds. The cost is linear in the number of names
// in the directory.
func (l *Lister) List(path string) (*List, error) { return l.list(path, suffixes) }

// list is List with a way for tests to rename files after suffixes has looked at the names.
func (l *Lister) list(path string, suffixes func(path string) ([]string, error)) (*List, error) {
	var resolved string
	var before []File
	for deadline := time.Now().Add(listPatience); time.Now().Before(deadline); {
		next, files, err := glimpse(path, suffixes)
		if err != nil {
			return nil, err
		}
		if next == resolved && slices.EqualFunc(before, files, isSame) {
			list, err := l.inspect(resolved, files)
			if err != ErrChanged {
				return list, err
			}
		}
		resolved, before = next, files
	}
	return nil, fmt.Errorf("%s: its files are renamed faster than they can be listed", path)
}

func isSame(a, b File) bool { return a.Path == b.Path && os.SameFile(a.Info, b.Info) }

// glimpse resolves path, and looks once at the names, and then at the files. A rename between the
// two can hide a file. The files have no headers yet. FILE is the first.
func glimpse(path string, suffixes func(path string) ([]string, error)) (
	resolved string, files []File, err error) {
	if resolved, err = Resolve(path); err != nil {
		return "", nil, err
	}
	rotated, err := suffixes(resolved)
	if err != nil {
		return "", nil, err
	}
	slices.Sort(rotated)
	for _, suffix := range append([]string{""}, rotated...) {
		info, err := os.Stat(resolved + suffix)
		switch {
		case err == nil && info.Mode().IsRegular():
			files = append(files, File{Path: resolved + suffix, Info: info})
		case suffix != "", errors.Is(err, fs.ErrNotExist): // no file of the log
		case err != nil:
			return "", nil, err
		default:
			return "", nil, fmt.Errorf("%s: must be a regular file", path)
		}
	}
	return resolved, files, nil
}

// suffixes returns what rotation has added to the names beside path that begin with its name.
func suffixes(path string) (suffixes []string, err error) {
	directory, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	for base := filepath.Base(path); ; {
		names, err := directory.Readdirnames(namesAtOnce)
		for _, name := range names {
			if suffix, found := strings.CutPrefix(name, base); found && isRotated(suffix) {
				suffixes = append(suffixes, strings.Clone(suffix))
			}
		}
		if err == io.EOF {
			return suffixes, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// inspect returns the List of files: each with its header, and without its further names. The
// error is ErrChanged if a file is not the listed one any more.
func (l *Lister) inspect(path string, files []File) (*List, error) {
	list, known := &List{Path: path}, make(map[look][]File, len(files))
	for _, file := range files {
		look := look{file.Info.Size(), file.Info.ModTime()}
		isIt := func(other File) bool { return os.SameFile(other.Info, file.Info) }
		if slices.ContainsFunc(known[look], isIt) {
			continue
		}
		isNamed := file.Path == path
		if at := slices.IndexFunc(l.known[look], isIt); at >= 0 && !isNamed {
			file.Header, file.Lines = l.known[look][at].Header, l.known[look][at].Lines
		} else if err := file.inspect(isNamed); err == ErrChanged || err != nil && isNamed {
			return nil, err
		} else if err != nil {
			continue // it is not known: it may be readable the next time
		}
		known[look] = append(known[look], file)
		if isNamed {
			list.Named = &file
		}
		if isNamed || file.Header.Log != 0 {
			list.Files = append(list.Files, file)
		} else if file.Header.Number > 0 {
			list.Earlier = append(list.Earlier, file)
		}
	}
	slices.SortStableFunc(list.Files, func(a, b File) int { return compareNumbers(a, b.Header) })
	l.known = known
	return list, nil
}

// inspect opens the file, and reads its first line. Only FILE needs no time stamp.
func (f *File) inspect(isNamed bool) error {
	opened, err := f.Open()
	if err != nil {
		return err
	}
	defer opened.Close()
	start, err := io.ReadAll(io.NewSectionReader(opened, 0, maxSize))
	if err != nil {
		return err
	}
	header, found := Parse(start[:bytes.IndexByte(start, '\n')+1])
	if f.Header = header; found || !isNamed && !logline.IsStamp(start) {
		return nil
	}
	f.Lines, err = LineEnd(opened, f.Info.Size())
	if f.Lines > 0 {
		f.Header.Number = 1
	}
	return err
}

// Open opens the file, and looks at its size again. The error is ErrChanged if another file or
// none has its path. The file may have been emptied, and have another header since it was listed.
func (f *File) Open() (*os.File, error) {
	opened, err := os.Open(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrChanged
	}
	if err != nil {
		return nil, err
	}
	info, err := opened.Stat()
	if err == nil && os.SameFile(info, f.Info) {
		f.Info = info
		return opened, nil
	}
	opened.Close()
	return nil, cmp.Or(err, ErrChanged)
}

// Belongs reports whether a file at path would have the name of a file of the log at logPath. It
// compares the paths alone.
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
