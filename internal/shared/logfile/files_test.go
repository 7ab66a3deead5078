package logfile_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/logfile"
)

const log = 0x5b1b30b6c2830ccd

// header returns the first line of a file of log.
func header(log uint64, number int64) string {
	return string(logfile.Header{Log: log, Number: number, After: 100, Name: "mbus.log"}.Append(
		nil, when))
}

// directory is a directory with files.
type directory struct {
	t    *testing.T
	path string
}

func newDirectory(t *testing.T) directory {
	path, err := filepath.EvalSymlinks(t.TempDir()) // which macOS has in a link
	directory := directory{t, path}
	directory.check(err)
	return directory
}

func (d directory) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// in returns the path of name.
func (d directory) in(name string) string { return filepath.Join(d.path, name) }

// write makes a file, which was modified so many seconds ago.
func (d directory) write(name, text string, age int) {
	d.t.Helper()
	d.check(os.WriteFile(d.in(name), []byte(text), 0o600))
	when := time.Now().Add(-time.Duration(age) * time.Second)
	d.check(os.Chtimes(d.in(name), when, when))
}

// list returns the files as text: the name, and the number and the log of its header.
func list(t *testing.T, path string) (text string, list *logfile.List) {
	t.Helper()
	list, err := logfile.NewList(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range slices.Concat(list.Earlier, list.Files) {
		text += fmt.Sprintf("%s %d %x", filepath.Base(file.Path), file.Header.Number,
			file.Header.Log)
		if file.Header.Log == 0 {
			text += fmt.Sprintf(" of %d bytes", file.Lines)
		}
		if file.Path == list.Path {
			text += " FILE"
		}
		text += "\n"
	}
	return text, list
}

// fill makes files and other things that belong to a log, or only look so.
func (d directory) fill() {
	d.t.Helper()
	d.write("mbus.log", header(log, 10), 5)
	d.write("mbus.log.1", header(log, 2), 1)
	d.write("mbus.log-20261124", header(log, 9), 9)
	d.write("mbus.log-2026-11-24.1", header(log, 1), 2)
	d.write("mbus.log.2", header(7, 3), 1)
	d.write("mbus.log.3", "2026/11/24 10:00:00 of an earlier version\ntorn", 1)
	d.write("mbus.log.4", "no log\n", 1)
	d.write("mbus.log.5", "", 1)
	for _, suffix := range []string{".1.gz", ".old", "-", ".", "1", ".a", "-1x", ".1~", "..1"} {
		d.write("mbus.log"+suffix, header(log, 3), 1)
	}
	d.write("x-mbus.log.1", header(log, 3), 1)
	d.check(os.Mkdir(d.in("mbus.log.6"), 0o700))
	d.check(os.Symlink("nothing", d.in("mbus.log.7")))
	d.check(os.Symlink("mbus.log.8", d.in("mbus.log.8")))
}

// Files are in the order of their numbers, whatever their names and times are. Other names, other
// kinds of files, and files that can't be read are left out.
func TestList(t *testing.T) {
	directory := newDirectory(t)
	path := directory.in("mbus.log")
	if text, list := list(t, path); text != "" || list.Named != nil || list.Log(0) != 0 ||
		list.Log(7) != 7 {
		t.Errorf("of nothing: %s", text)
	}
	directory.fill()
	want := "mbus.log.3 1 0 of 42 bytes\nmbus.log.2 3 7\n" +
		"mbus.log-2026-11-24.1 1 5b1b30b6c2830ccd\nmbus.log.1 2 5b1b30b6c2830ccd\n" +
		"mbus.log-20261124 9 5b1b30b6c2830ccd\nmbus.log 10 5b1b30b6c2830ccd FILE\n"
	got, list := list(t, path)
	if got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	for log, want := range map[uint64]int{log: 4, 7: 1, 0: 0, 8: 0} {
		if files := list.Of(log, 1, logfile.MaxNumber); len(files) != want {
			t.Errorf("%d files of log %x", len(files), log)
		}
	}
	for numbers, want := range map[[2]int64]int{
		{0, 0}: 0, {1, 1}: 1, {2, 2}: 1, {3, 3}: 0, {9, 9}: 1, {10, 10}: 1, {11, 11}: 0,
		{2, 9}: 2, {3, 8}: 0, {1, 2}: 2, {2, 1}: 0,
	} {
		if got := list.Of(log, numbers[0], numbers[1]); len(got) != want {
			t.Errorf("%d files with the numbers %d", len(got), numbers)
		}
	}
	if list.Named.Header.Number != 10 || list.Log(7) != log {
		t.Errorf("FILE is %+v, the log %x", list.Named, list.Log(7))
	}
}

// The log is that of FILE, else the known one, else that of the last file that names FILE.
func TestWhichLog(t *testing.T) {
	directory := newDirectory(t)
	path := directory.in("mbus.log")
	expect := func(want string, known, log uint64) {
		t.Helper()
		if text, list := list(t, path); text != want || list.Log(known) != log {
			t.Errorf("the log is %x, want %x, of\n%s, want\n%s", list.Log(known), log, text, want)
		}
	}
	other := logfile.Header{Log: 9, Number: 1, Name: "bus"}.Append(nil, when)
	directory.write("mbus.log.1", header(7, 3), 5)
	directory.write("mbus.log.2", header(8, 3), 6)
	directory.write("mbus.log.3", string(other), 1)
	const rest = "mbus.log.1 3 7\nmbus.log.2 3 8\nmbus.log.3 1 9\n"
	expect(rest, 0, 7)
	expect(rest, 8, 8)
	for _, text := range []string{"", "torn", header(9, 1)[:40], strings.Repeat("x", 5000)} {
		directory.write("mbus.log", text, 1)
		expect("mbus.log 0 0 of 0 bytes FILE\n"+rest, 0, 7)
		expect("mbus.log 0 0 of 0 bytes FILE\n"+rest, 8, 8)
	}
	for _, text := range []string{"a\n", strings.Repeat("x", 5000) + "\n"} {
		directory.write("mbus.log", text, 1)
		expect(fmt.Sprintf("mbus.log 1 0 of %d bytes FILE\n", len(text))+rest, 8, 0)
	}
	directory.write("mbus.log", header(6, 1), 9)
	expect("mbus.log 1 6 FILE\n"+rest, 8, 6)
}

// A file with several names is one file.
func TestNames(t *testing.T) {
	directory := newDirectory(t)
	directory.write("mbus.log", header(log, 2), 1)
	directory.write("mbus.log.1", header(log, 1), 1)
	directory.check(os.Link(directory.in("mbus.log"), directory.in("mbus.log.0")))
	directory.check(os.Symlink("mbus.log", directory.in("mbus.log.4")))
	directory.check(os.Link(directory.in("mbus.log.1"), directory.in("mbus.log.2")))
	directory.check(os.Symlink(directory.in("mbus.log.1"), directory.in("mbus.log.3")))
	want := "mbus.log.1 1 5b1b30b6c2830ccd\nmbus.log 2 5b1b30b6c2830ccd FILE\n"
	if got, _ := list(t, directory.in("mbus.log")); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

// FILE, and what is beside it, are those of the file that a link finally names, also while that
// file is missing.
func TestLinks(t *testing.T) {
	directory := newDirectory(t)
	directory.check(os.MkdirAll(directory.in("real/deep"), 0o700))
	directory.check(os.MkdirAll(directory.in("links"), 0o700))
	directory.check(os.Symlink(directory.in("real/deep"), directory.in("links/there")))
	directory.check(os.Symlink("there/../second", directory.in("links/first")))
	directory.check(os.Symlink("deep/bus", directory.in("real/second")))
	directory.check(os.Symlink("loop", directory.in("loop")))
	directory.write("real/deep/bus.1", header(log, 1), 1)
	directory.write("links/first.1", header(log, 3), 1)
	path := directory.in("links/first")
	want := "bus.1 1 5b1b30b6c2830ccd\n"
	for range 2 {
		got, list := list(t, path)
		if got != want || list.Path != directory.in("real/deep/bus") {
			t.Errorf("%s has\n%s, want\n%s", list.Path, got, want)
		}
		directory.write("real/deep/bus", header(log, 2), 1)
		want += "bus 2 5b1b30b6c2830ccd FILE\n"
	}
	if path, err := logfile.Resolve(directory.in("loop")); err == nil {
		t.Errorf("a loop leads to %s", path)
	}
	for _, path := range []string{directory.in("none/log"), "log", directory.in("real/log")} {
		got, err := logfile.Resolve(path)
		if got != path && got != filepath.Clean(path) || err != nil {
			t.Errorf("%s leads to %s, %v", path, got, err)
		}
	}
}

// A Lister reads the first line of a file once, whatever its name becomes, unless its size or its
// time changes. It reads that of FILE each time, because FILE may be emptied.
func TestReadOnce(t *testing.T) {
	directory := newDirectory(t)
	path, lister := directory.in("mbus.log"), new(logfile.Lister)
	expect := func(want ...int64) {
		t.Helper()
		list, err := lister.List(path)
		directory.check(err)
		var got []int64
		for _, file := range list.Files {
			got = append(got, file.Header.Number)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the files are %d, want %d", got, want)
		}
	}
	// rewrite gives a file another header, and the same size and time.
	rewrite := func(name string, number int64) {
		info, err := os.Stat(directory.in(name))
		directory.check(err)
		directory.check(os.WriteFile(directory.in(name), []byte(header(log, number)), 0))
		directory.check(os.Chtimes(directory.in(name), info.ModTime(), info.ModTime()))
	}
	directory.write("mbus.log.1", header(log, 2), 1)
	directory.write("mbus.log", header(log, 3), 1)
	expect(2, 3)
	directory.check(os.Rename(directory.in("mbus.log.1"), directory.in("mbus.log.2")))
	rewrite("mbus.log.2", 8)
	rewrite("mbus.log", 9)
	expect(2, 9)
	directory.write("mbus.log.2", header(log, 8), 3)
	expect(8, 9)
}

// Open opens only the file that was listed.
func TestOpen(t *testing.T) {
	for name, change := range map[string]func(directory directory, path string) error{
		"removed":  func(_ directory, path string) error { return os.Remove(path) },
		"replaced": func(_ directory, path string) error { return os.Rename(path+"2", path) },
	} {
		directory := newDirectory(t)
		directory.write("mbus.log.1", header(log, 1), 1)
		directory.write("mbus.log.12", header(log, 1), 1)
		path := directory.in("mbus.log")
		_, list := list(t, path)
		listed := list.Files[0]
		size := listed.Info.Size()
		directory.check(os.WriteFile(listed.Path, []byte(header(log, 1)+"more\n"), 0))
		opened, err := listed.Open()
		directory.check(err)
		opened.Close()
		if got := listed.Info.Size(); got != size+5 {
			t.Errorf("%d bytes, want %d", got, size+5)
		}
		directory.check(change(directory, listed.Path))
		if _, err := listed.Open(); !errors.Is(err, logfile.ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// With FILE not a regular file there is no log.
func TestNoLog(t *testing.T) {
	directory := newDirectory(t)
	for _, path := range []string{directory.path, directory.path + "/", directory.in(".."), "."} {
		_, err := logfile.NewList(path)
		if err == nil || err.Error() != path+": must be a regular file" {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Belongs compares names.
func TestBelongs(t *testing.T) {
	for path, want := range map[string]bool{
		"x": true, "./x": true, "x.1": true, "x-20261124.1": true, "x.state": false, "x.": false,
		"d/x.1": false, "y": false, "x.1.state": false,
	} {
		if got := logfile.Belongs(path, "x"); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}
