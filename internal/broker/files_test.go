//go:build unix

package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/logfile"
)

// write queues texts and drains.
func (s *stored) write(texts ...string) {
	s.t.Helper()
	s.queue(texts...)
	s.must(s.Drain())
}

// expectFile fails the test unless the header of the file path is of the same log as first, has
// number, and says how many bytes the file before has.
func expectFile(t *testing.T, first logfile.Header, path string, number int64, before string) {
	t.Helper()
	want := logfile.Header{Log: first.Log, Number: number, Name: first.Name,
		After: int64(len(file(before)))}
	if got, _ := header(t, path); got != want {
		t.Errorf("%s is %+v, want %+v", path, got, want)
	}
}

// The first line of each file says which file it is, after rotations and after restarts, whatever
// copies are beside the log.
func TestFirstLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	stored := openStored(t, path, nil)
	stored.write("1")
	first, _ := header(t, path)
	if first.Log == 0 || first.Number != 1 || first.After != 0 || first.Name != "log" {
		t.Errorf("the first file is %+v", first)
	}
	rename(t, path, path+".1")
	stored.write("2")
	expectFile(t, first, path, 2, path+".1")
	stored.Close()

	stored = openStored(t, path, nil) // a restart goes on in the same file
	stored.write("3")
	expectFile(t, first, path, 2, path+".1")
	stored.Close()

	rename(t, path, path+".2")
	stored = openStored(t, path, nil) // finds its number by log.2
	stored.write("4")
	expectFile(t, first, path, 3, path+".2")
	stored.Close()

	rename(t, path, path+".3")
	writeCopies(t, path, first.Log)
	stored = openStored(t, path, nil)
	defer stored.Close()
	expectFile(t, first, path, 4, path+".3")
	stored.write("5")
	log := logFiles{path + ".1", path + ".2", path + ".3", path}.String()
	if got := bustest.Received(t, log); fmt.Sprint(got["t"]) != "[1 2 3 4 5]" {
		t.Errorf("the log has %q", got)
	}
}

// writeCopies makes files beside the log path, whose id is log, none of which is the last of the
// log. That is path.3.
func writeCopies(t *testing.T, path string, log uint64) {
	t.Helper()
	whole := file(path + ".3")
	writeFile(t, path+".9", file(path+".2"))               // an older file, copied
	writeFile(t, path+".8", whole[:len(whole)-5])          // the same file, shorter
	writeFile(t, path+"-20261129", "2026/11/29 no header") // of an earlier version
	writeFile(t, path+".7", "no log")
	other := logfile.Header{Log: 7, Number: 98, Name: "log-2"}
	writeFile(t, path+"-2", string(other.Append(nil, time.Now())))
	other.Log = log // a copy of the log, which was then written under that name
	writeFile(t, path+"-2.1", string(other.Append(nil, time.Now())))
}

// A torn line at the end of the file before does not count.
func TestFirstLineAfterATornEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	stored := openStored(t, path, nil)
	stored.write("1")
	stored.Close()
	first, _ := header(t, path)
	whole := file(path)
	writeFile(t, path+".1", whole+"2026/11/29 10:00:00 torn")
	os.Remove(path)
	openStored(t, path, nil).Close()
	writeFile(t, path+".1", whole)
	expectFile(t, first, path, 2, path+".1")
}

// A first line that a kill has torn is written again, with the same number.
func TestTornFirstLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	openStored(t, path, nil).Close()
	first, size := header(t, path)
	rename(t, path, path+".1")
	openStored(t, path, nil).Close()
	line := file(path)
	for torn := range size {
		writeFile(t, path, line[:torn])
		openStored(t, path, nil).Close()
		expectFile(t, first, path, 2, path+".1")
	}
}

// An old file in the place of the log is refused at the start. Nothing is appended to it.
func TestOldFileInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	stored := openStored(t, path, nil)
	stored.write("1")
	rename(t, path, path+".1")
	stored.write("2")
	old := file(path + ".1")

	rename(t, path, path+".2")
	writeFile(t, path, old)
	stored.queue("3")
	want := path + ": is file 1 of its log, but log.2 beside it is file 2"
	if err := stored.Drain(); err == nil || err.Error() != want || file(path) != old {
		t.Errorf("Drain returns %v, and the file has %d bytes of %d",
			err, len(file(path)), len(old))
	}
	away := t.TempDir() + "/log.2"
	rename(t, path+".2", away)
	want = path + ": is file 1 of its log, but file 2 was written last"
	if err := stored.Drain(); err == nil || err.Error() != want || file(path) != old {
		t.Errorf("Drain returns %v", err)
	}
	rename(t, away, path)
	stored.must(stored.Drain())
	if got := bustest.Received(t, file(path)); fmt.Sprint(got["t"]) != "[2 3]" {
		t.Errorf("the log has %q", got)
	}
	stored.Close()
	rename(t, path, path+".2")
	writeFile(t, path, old+old[:30])
	refuseLog(t, path, path+": is file 1 of its log, but log.2 beside it is file 2")
	if file(path) != old+old[:30] {
		t.Error("the old file was changed")
	}
}

// A file that is no log is left alone.
func TestFileThatIsNoLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	for _, text := range []string{`{"port": 9990}`, "{\n}\n", "2026-11-29 10:00:00 torn", "2026x",
		"\n", "\x002026/11/29 10:00:00 a line\n"} {
		writeFile(t, path, text)
		refuseLog(t, path, path+": is not a log, it was left as it is")
		if got := file(path); got != text {
			t.Errorf("%q was changed to %q", text, got)
		}
	}
	for _, text := range []string{"", "2", "2026/11/29 10:00:00", "2026/1\x00\x00", "\x00\x00"} {
		os.Remove(path)
		writeFile(t, path, text)
		openStored(t, path, nil).Close()
		if first, _ := header(t, path); first.Number != 1 {
			t.Errorf("%q: the first line has %+v", text, first)
		}
	}
}

// A log of an earlier version is appended to, and counts as file 1 of a new log. If the log is
// missing, the last file of an earlier version beside it counts as file 1.
func TestFileOfAnEarlierVersion(t *testing.T) {
	const line = "2026/11/29 10:00:00 Received new message from topic 't': 'old'\n"
	path := filepath.Join(t.TempDir(), "log")
	writeFile(t, path, line)
	stored := openStored(t, path, nil)
	stored.write("1")
	if text := file(path); !strings.HasPrefix(text, line+"2") || strings.Contains(text, "of log") {
		t.Errorf("the log is\n%s", text)
	}
	rename(t, path, path+".1")
	stored.write("2")
	first, _ := header(t, path)
	first.Name = "log"
	expectFile(t, first, path, 2, path+".1")
	rename(t, path, path+".2")
	stored.write("3")
	expectFile(t, first, path, 3, path+".2")
	stored.Close()

	path = filepath.Join(t.TempDir(), "log")
	writeFile(t, path+".3", "no log, and the last of all\n")
	writeFile(t, path+".1", line)
	writeFile(t, path+".2", line+line)
	hourAgo := time.Now().Add(-time.Hour)
	stored.must(os.Chtimes(path+".2", hourAgo, hourAgo))
	openStored(t, path, nil).Close()
	first, _ = header(t, path)
	expectFile(t, first, path, 2, path+".1")
}

// A log that somebody empties counts as rotated into itself. One that is cut to a line keeps its
// number.
func TestEmptiedLog(t *testing.T) {
	stored := newStored(t, nil)
	stored.write("1")
	first, size := header(t, stored.path)
	before := len(file(stored.path))
	for number, left := range []int64{0, 0, int64(size) - 1} { // a torn first line counts as none
		stored.must(os.Truncate(stored.path, left))
		stored.write("again")
		want := logfile.Header{Log: first.Log, Number: int64(number) + 2, After: int64(before),
			Name: "log"}
		got, size := header(t, stored.path)
		if got != want {
			t.Errorf("emptied to %d bytes, it is %+v, want %+v", left, got, want)
		}
		if got := stored.Received("t"); fmt.Sprint(got) != "[again]" {
			t.Errorf("the log has %q", got)
		}
		stored.must(os.Truncate(stored.path, int64(size)+30))
		stored.write("more")
		if kept, _ := header(t, stored.path); kept != want {
			t.Errorf("cut, it is %+v, want %+v", kept, want)
		}
		bustest.Lines(t, file(stored.path))
		if got := stored.Received("t"); fmt.Sprint(got) != "[more]" {
			t.Errorf("the log has %q", got)
		}
		before = len(file(stored.path))
	}
}

// If a log is emptied when it ends in the middle of a line, the next file is after its whole lines.
func TestEmptiedLogWithALineInHand(t *testing.T) {
	stored := newStored(t, nil)
	stored.write("1")
	first, _ := header(t, stored.path)
	before := int64(len(file(stored.path)))
	disk := &limited{stored.store, 10}
	stored.drainer.log.writer = disk
	stored.queue("2")
	if err := stored.Drain(); err == nil {
		t.Fatal("the disk is not full")
	}
	stored.must(os.Truncate(stored.path, 0))
	disk.room = endless
	stored.must(stored.Drain())
	want := logfile.Header{Log: first.Log, Number: 2, After: before, Name: "log"}
	if got, _ := header(t, stored.path); got != want || len(stored.Received("t")) != 1 {
		t.Errorf("it is %+v, want %+v, and has %q", got, want, stored.Received("t"))
	}
}

// If the log is a symbolic link, its name and the files beside it are those of the link's target,
// also while that is missing.
func TestLinkedLog(t *testing.T) {
	directory := t.TempDir()
	real, link := filepath.Join(directory, "real.log"), filepath.Join(t.TempDir(), "link.log")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	stored := openStored(t, link, nil)
	stored.write("1")
	first, _ := header(t, real)
	if first.Name != "real.log" {
		t.Errorf("the name is %s", first.Name)
	}
	rename(t, real, real+".1")
	stored.Close()
	openStored(t, link, nil).Close()
	expectFile(t, first, real, 2, real+".1")
}

// A file is synced before the first line of the next file says how many bytes it has. That is so
// without Sync, and after a restart too.
func TestOldFileIsSynced(t *testing.T) {
	for _, restart := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "log")
		stored := openStored(t, path, nil)
		stored.write("1")
		rename(t, path, path+".1")
		log := stored.store
		if restart {
			stored.Close()
			log = &store{path: path}
		}
		var changes []string
		log.observe = func(change string, _ []byte, _ int64) { changes = append(changes, change) }
		if restart {
			stored.must(log.open())
			log.close()
		} else {
			_, err := log.look(0)
			stored.must(err)
			stored.Close()
		}
		sync, write := slices.Index(changes, "sync"), slices.Index(changes, "write")
		if sync < 0 || write < sync {
			t.Errorf("restart %v: the changes are %q", restart, changes)
		}
	}
}
