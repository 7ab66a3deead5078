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

// The first line of a new FILE is read at once, however long the last listing took.
func TestFirstLineAfterSlowListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "mbus.log")
		follower := New(path, func(line string) { t.Error(line) })
		defer follower.Close()
		list := follower.listFiles
		follower.listFiles = func(path string) (*logfile.List, error) {
			time.Sleep(time.Second)
			return list(path)
		}
		size := writeFile(t, path, 1, 0)
		readAll(t, follower)
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		readAll(t, follower)
		writeFile(t, path, 2, size)
		if lines, _ := readAll(t, follower); lines != 1 {
			t.Errorf("%d lines", lines)
		}
	})
}

// fill makes 10,000 names in directory, or 100,000 in a long campaign.
func fill(t *testing.T, directory string) {
	t.Helper()
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
}

// waitMinute looks for lines for a minute, in which there must be none. It returns how many times
// the files were listed, which listed counts.
func waitMinute(t *testing.T, follower *Follower, listed *int) int {
	t.Helper()
	before := *listed
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		if lines, _ := readAll(t, follower); lines > 0 {
			t.Errorf("%d lines", lines)
		}
		time.Sleep(pollInterval) // Wait would stop the bubble's time
	}
	return *listed - before
}

// A reader that waits lists the directory only if something has changed, and once more, because
// the time of a directory is coarse.
func TestWaitingCost(t *testing.T) {
	directory := t.TempDir()
	fill(t, directory)
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(directory, "mbus.log")
		var reports []string
		follower := New(path, func(line string) { reports = append(reports, line) })
		defer follower.Close()
		listed, size := countLists(follower), int64(0)
		write := func(number int64) error {
			size = writeFile(t, path, number, size)
			return nil
		}
		for _, step := range []struct {
			name         string
			change       func() error
			lines, lists int
		}{
			{"without a log", func() error { return nil }, 0, 2},
			{"at the end of FILE", func() error { return write(1) }, 1, 0},
			{"after a rename", func() error { return os.Rename(path, path+".1") }, 0, 2},
			{"with an empty FILE", func() error { return os.WriteFile(path, nil, 0o600) }, 0, 2},
			{"at the end of the second FILE", func() error { return write(2) }, 1, 0},
		} {
			if err := step.change(); err != nil {
				t.Fatal(err)
			}
			if step.lines > 0 {
				if lines, _ := readAll(t, follower); lines != step.lines {
					t.Errorf("%s: %d lines", step.name, lines)
				}
			}
			if got := waitMinute(t, follower, listed); got != step.lists {
				t.Errorf("%s: listed %d times, want %d", step.name, got, step.lists)
			}
		}
		want := path + ": is not there yet, and is awaited"
		if len(reports) != 1 || reports[0] != want {
			t.Errorf("reported %q, want %q", reports, want)
		}
	})
}
