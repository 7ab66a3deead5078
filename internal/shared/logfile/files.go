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
	"sort"
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

// ErrChanged reports that a file was renamed or removed after it was listed.
var ErrChanged = errors.New("the file has changed since it was listed")

// File is FILE, or a file beside it whose name is like that of a rotated file.
type File struct {
	Path      string
	Info      fs.FileInfo // of the file that Path leads to
	IsNamed   bool        // whether it is FILE; a file with both names is
	Header    Header      // zero: the file has none
	HasLine   bool        // whether it has a whole line; of FILE only, unless that line is short
	IsStamped bool        // whether it begins with a time stamp
}

// List has the files that FILE and the names beside it lead to, at one moment. A file with
// several names is in it once. The files are ordered by their log and their number. Those without
// a header are first.
type List struct {
	Path  string // of FILE, resolved
	Files []File
}

// Named returns FILE, or nil if it is missing.
func (list *List) Named() *File {
	at := slices.IndexFunc(list.Files, func(file File) bool { return file.IsNamed })
	if at < 0 {
		return nil
	}
	return &list.Files[at]
}

// Of returns the files of log, the lowest number first. Of log 0 these are the files without a
// header.
func (list *List) Of(log uint64) []File {
	return between(list.Files, func(file File) int { return cmp.Compare(file.Header.Log, log) })
}

// Numbered returns those of files, which are all of one log, that have number.
func Numbered(files []File, number int64) []File {
	return between(files, func(file File) int { return cmp.Compare(file.Header.Number, number) })
}

// between returns those of files for which compare returns 0. It returns less for those before
// them, and more for those after them.
func between(files []File, compare func(File) int) []File {
	start := sort.Search(len(files), func(i int) bool { return compare(files[i]) >= 0 })
	end := sort.Search(len(files), func(i int) bool { return compare(files[i]) > 0 })
	return files[start:end:end]
}

// Log returns the id of the log that the files make up. It is that of FILE, or 0 if FILE has
// lines and no header. If FILE is missing or has no whole line, it is known, which is the id that
// the caller knows. If known is 0, it is that of the files whose headers name FILE. If these are
// of several logs, it is that of the file that was modified last.
func (list *List) Log(known uint64) uint64 {
	if named := list.Named(); named != nil && named.HasLine {
		return named.Header.Log
	}
	if known != 0 {
		return known
	}
	var last File
	for _, file := range list.Files {
		isOurs := file.Header.Log != 0 && file.Header.Name == filepath.Base(list.Path)
		if isOurs && (last.Info == nil || file.Info.ModTime().After(last.Info.ModTime())) {
			last = file
		}
	}
	return last.Header.Log
}

// Lister lists the files of a log. It keeps their headers, and reads the first line of a file
// again only if the file's size or time has changed, or if it is FILE. So the cost of a List is
// linear in the number of names. A Lister is not safe for concurrent use.
type Lister struct {
	path   string
	known  map[look][]File // the files of the last List
	Lists  int             // how many times the directory was listed
	Opened int             // how many files were opened
}

// look is what a rename does not change of a file.
type look struct {
	size     int64
	modified time.Time
}

// NewLister returns a Lister of the log at path. The log may not exist yet.
func NewLister(path string) *Lister {
	return &Lister{path: path}
}

// Resolve returns the path of the file that path finally names: it follows symbolic links, also
// if that file is missing. If its directory is missing, Resolve returns the path to it so far.
func Resolve(path string) (string, error) {
	for range maxLinks {
		directory, base := filepath.Split(path)
		directory, err := filepath.EvalSymlinks(cmp.Or(directory, "."))
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		path = filepath.Join(directory, base)
		target, err := os.Readlink(path)
		if err != nil || base == "" {
			return path, nil // no link
		}
		if path = target; !filepath.IsAbs(target) {
			// Not filepath.Join, which would take the part before .. away unseen.
			path = directory + string(filepath.Separator) + target
		}
	}
	return "", fmt.Errorf("%s: too many levels of symbolic links", path)
}

// List lists the files. A file beside FILE that can't be read is left out. A rotation moves names
// from file to file, so List looks until it has seen the same files twice in a row.
func (lister *Lister) List() (*List, error) {
	var before List
	for deadline := time.Now().Add(listPatience); ; {
		after, err := lister.glimpse()
		if err != nil {
			return nil, err
		}
		if before.Path == after.Path && slices.EqualFunc(before.Files, after.Files, isSame) {
			if err = lister.finish(&after); err != ErrChanged {
				return &after, err
			}
			after = List{}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s: its files are renamed faster than they can be listed",
				lister.path)
		}
		before = after
	}
}

func isSame(a, b File) bool { return a.Path == b.Path && os.SameFile(a.Info, b.Info) }

// glimpse looks once at the names, and then at the files. A rename between the two can hide a
// file. The files have no headers yet, and are ordered by their paths.
func (lister *Lister) glimpse() (list List, err error) {
	if list.Path, err = Resolve(lister.path); err != nil {
		return list, err
	}
	names, err := besides(list.Path)
	if err != nil {
		return list, err
	}
	lister.Lists++
	slices.Sort(names)
	for i, name := range append([]string{filepath.Base(list.Path)}, names...) {
		path := list.Path
		if i > 0 {
			path = filepath.Join(filepath.Dir(path), name)
		}
		info, err := os.Stat(path)
		switch {
		case err == nil && info.Mode().IsRegular():
			list.Files = append(list.Files, File{Path: path, Info: info, IsNamed: i == 0})
		case i > 0, errors.Is(err, fs.ErrNotExist): // no file of the log
		case err != nil:
			return list, err
		default:
			return list, fmt.Errorf("%s: must be a regular file", lister.path)
		}
	}
	return list, nil
}

// besides returns the names beside path that are like that of a rotated file of path.
func besides(path string) (names []string, err error) {
	directory, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	for base := filepath.Base(path); ; {
		some, err := directory.Readdirnames(namesAtOnce)
		for _, name := range some {
			if suffix, found := strings.CutPrefix(name, base); found && isRotated(suffix) {
				names = append(names, strings.Clone(name))
			}
		}
		if err == io.EOF {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// finish leaves out further names of a file, sets the headers, and orders the files. The error is
// ErrChanged if a file is not the listed one any more.
func (lister *Lister) finish(list *List) error {
	known := make(map[look][]File, len(list.Files))
	files := list.Files[:0]
	for _, file := range list.Files {
		look := look{file.Info.Size(), file.Info.ModTime()}
		isSame := func(other File) bool { return os.SameFile(other.Info, file.Info) }
		if slices.ContainsFunc(known[look], isSame) {
			continue
		}
		if at := slices.IndexFunc(lister.known[look], isSame); at >= 0 && !file.IsNamed {
			old := lister.known[look][at]
			file.Header, file.IsStamped = old.Header, old.IsStamped
		} else {
			lister.Opened++
			err := file.inspect()
			if err == ErrChanged || err != nil && file.IsNamed {
				return err
			}
			if err != nil {
				continue
			}
		}
		known[look] = append(known[look], file)
		files = append(files, file)
	}
	slices.SortStableFunc(files, func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Header.Log, b.Header.Log),
			cmp.Compare(a.Header.Number, b.Header.Number))
	})
	list.Files, lister.known = files, known
	return nil
}

// inspect opens the file, and reads its first line.
func (file *File) inspect() error {
	opened, err := file.Open()
	if err != nil {
		return err
	}
	defer opened.Close()
	start := make([]byte, maxSize)
	count, err := opened.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return err
	}
	start = start[:count]
	end := bytes.IndexByte(start, '\n') + 1
	file.IsStamped, file.HasLine = logline.IsStamp(start), end > 0
	file.Header, _ = Parse(start[:end])
	if count == maxSize && end == 0 && file.IsNamed {
		whole, err := LineEnd(opened, file.Info.Size())
		file.HasLine = whole > 0 || err != nil // it is shorter now, so it had more
	}
	return nil
}

// Open opens the file. The error is ErrChanged if another file or none has its path. The file may
// have been emptied, and have another header since it was listed.
func (file *File) Open() (*os.File, error) {
	opened, err := os.Open(file.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrChanged
	}
	if err != nil {
		return nil, err
	}
	info, err := opened.Stat()
	if err == nil && os.SameFile(info, file.Info) {
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
