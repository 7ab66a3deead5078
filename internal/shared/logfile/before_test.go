package logfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/logfile"
)

// beside is a file beside FILE. It has a header, unless log is 0, and size bytes after it.
type beside struct {
	name   string
	log    uint64
	number int64
	size   int
}

// listed makes files, each modified a second after the one before, and then FILE, mbus.log, with
// text. It returns FILE's path and the list.
func listed(t *testing.T, text string, files ...beside) (string, *logfile.List) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mbus.log")
	when := time.Date(2026, 11, 29, 7, 0, 0, 0, time.UTC)
	write := func(path, text string) {
		when = when.Add(time.Second)
		err := os.WriteFile(path, []byte(text), 0o600)
		if err == nil {
			err = os.Chtimes(path, when, when)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		start := "2026/11/29 06:00:00 a line of an earlier version\n"
		if file.log != 0 {
			header := logfile.Header{Log: file.log, Number: file.number, Name: "mbus.log"}
			start = string(header.Append(nil, when))
		}
		text := start + strings.Repeat("x", file.size) + "\n"
		write(filepath.Join(filepath.Dir(path), file.name), text)
	}
	write(path, text)
	list, err := logfile.NewList(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, list
}

// The file before an empty FILE has the greatest number of its log, and of several with one number
// it is the longest. Without headers it is the one that was modified last.
func TestBefore(t *testing.T) {
	for _, test := range []struct {
		want  string
		files []beside
	}{
		{"", nil},
		{"mbus.log.2", []beside{{"mbus.log.2", 7, 12, 0}, {"mbus.log.1", 7, 9, 100}}},
		{"mbus.log.2", []beside{
			{"mbus.log.1", 7, 9, 0}, {"mbus.log.2", 7, 9, 100}, {"mbus.log.3", 7, 9, 50},
		}},
		{"mbus.log.1", []beside{{"mbus.log.2", 8, 12, 0}, {"mbus.log.1", 7, 9, 0}}}, // the last log
		{"mbus.log.3", []beside{{"mbus.log.1", 0, 0, 100}, {"mbus.log.3", 0, 0, 0}}},
		{"mbus.log.1", []beside{{"mbus.log.1", 7, 1, 0}, {"mbus.log.3", 0, 0, 0}}},
	} {
		_, list := listed(t, "", test.files...)
		got := ""
		if before := list.Before(); before != nil {
			got = filepath.Base(before.Path)
		}
		if got != test.want {
			t.Errorf("%v: the file before is %q, want %q", test.files, got, test.want)
		}
	}
}

// FILE is refused if it is no log, or is older than a file beside it or than the last one written.
func TestCheckNamed(t *testing.T) {
	named := logfile.Header{Log: 7, Number: 3, After: 1, Name: "mbus.log"}
	line := string(named.Append(nil, time.Now()))
	for _, test := range []struct {
		text  string
		files []beside
		last  logfile.Header
		want  string
	}{
		{"", nil, logfile.Header{}, ""},
		{line, []beside{{"mbus.log.1", 7, 2, 0}, {"mbus.log.2", 8, 9, 0}}, named, ""},
		{line[:7] + "\x00\x00", nil, logfile.Header{}, ""},
		{"2026/11/29 06:00:00 a line\n", []beside{{"mbus.log.1", 7, 2, 0}}, logfile.Header{}, ""},
		{"{}\n", nil, logfile.Header{}, "is not a log, it was left as it is"},
		{line, []beside{{"mbus.log.1", 7, 4, 0}}, logfile.Header{},
			"is file 3 of its log, but mbus.log.1 beside it is file 4"},
		{line, nil, logfile.Header{Log: 7, Number: 4},
			"is file 3 of its log, but file 4 was written last"},
		{line, nil, logfile.Header{Log: 8, Number: 4}, ""},
	} {
		path, list := listed(t, test.text, test.files...)
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		got := ""
		if err := list.CheckNamed(file, test.last); err != nil {
			got = fmt.Sprint(err)
		}
		if got != test.want {
			t.Errorf("%q beside %v: %q, want %q", test.text, test.files, got, test.want)
		}
	}
}
