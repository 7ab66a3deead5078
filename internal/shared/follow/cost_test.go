package follow

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/logfile"
)

// writeFile writes a file of a log, with one line, and returns its size.
func writeFile(t *testing.T, path string, number, after int64) int64 {
	t.Helper()
	header := logfile.Header{Log: 1, Number: number, After: after, Name: "mbus.log"}
	text := append(header.Append(nil, time.Now()), "line\n"...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return int64(len(text))
}

// readAll returns how many lines there are now, besides the first ones of files, and in how many
// files they were read.
func readAll(t *testing.T, follower *Follower) (lines, files int) {
	t.Helper()
	for {
		before := follower.current
		line, err := follower.Next()
		if follower.current != before {
			files++
		}
		if err != nil {
			t.Fatal(err)
		}
		if line == nil {
			return lines, files
		}
		if bytes.Equal(line, []byte("line\n")) {
			lines++
		}
	}
}

// countLists counts how many times follower lists the files of its log.
func countLists(follower *Follower) (count *int) {
	count = new(int)
	list := follower.listFiles
	follower.listFiles = func(path string) (*logfile.List, error) {
		*count++
		return list(path)
	}
	return count
}

// The cost of reading a log is linear in the number of its files: they are listed once, and each
// is opened once to be read.
func TestManyFiles(t *testing.T) {
	for _, count := range []int{250, 1000} {
		path := filepath.Join(t.TempDir(), "mbus.log")
		size := int64(0)
		for number := 1; number < count; number++ {
			size = writeFile(t, fmt.Sprintf("%s.%d", path, count-number), int64(number), size)
		}
		writeFile(t, path, int64(count), size)
		follower := New(path, func(line string) { t.Error(line) })
		lists := countLists(follower)
		lines, opened := readAll(t, follower)
		if lines != count {
			t.Errorf("%d lines of %d files", lines, count)
		}
		if *lists > 1 || opened != count {
			t.Errorf("%d files: listed %d times, and opened %d to read", count, *lists, opened)
		}
		follower.Close()
	}
}

// A reader that waits lists the directory only if something has changed, and once more, because
// the time of a directory is coarse.
func TestWaitingCost(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "mbus.log")
	names := 10_000
	if os.Getenv("MBUS_TORTURE") != "" {
		names = 100_000
	}
	for i := range names {
		other := filepath.Join(directory, fmt.Sprint("other", i))
		if err := os.Symlink("nothing", other); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var reports []string
		follower := New(path, func(line string) { reports = append(reports, line) })
		defer follower.Close()
		listed := countLists(follower)
		defer func() {
			want := path + ": is not there yet, and is awaited"
			if len(reports) != 1 || reports[0] != want {
				t.Errorf("reported %q, want %q", reports, want)
			}
		}()
		wait := func(what string, lists int) {
			t.Helper()
			before := *listed
			for begin := time.Now(); time.Since(begin) < time.Minute; {
				if lines, _ := readAll(t, follower); lines > 0 {
					t.Errorf("%s: %d lines", what, lines)
				}
				time.Sleep(pollInterval) // Wait would stop the bubble's time
			}
			if got := *listed - before; got != lists {
				t.Errorf("%s: the directory was listed %d times, want %d", what, got, lists)
			}
		}
		wait("without a log", 2)
		size := writeFile(t, path, 1, 0)
		if lines, _ := readAll(t, follower); lines != 1 {
			t.Errorf("%d lines", lines)
		}
		wait("at the end of FILE", 0)
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		wait("after a rename", 2)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		wait("with an empty FILE", 2)
		writeFile(t, path, 2, size)
		if lines, _ := readAll(t, follower); lines != 1 {
			t.Errorf("%d lines", lines)
		}
		wait("at the end of the second FILE", 0)
	})
}
