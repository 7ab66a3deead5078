//go:build unix

package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/osfile"
)

// A broker that has nothing to write looks at its log's name each second.
func TestLookWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stored := newStored(t, nil)
		loopEnded, result := make(chan struct{}), make(chan error, 1)
		go func() { result <- stored.drainer.tickLoop(loopEnded) }()
		time.Sleep(lookInterval / 2)
		stored.notify("a notice, before which the broker looks too")
		time.Sleep(lookInterval / 4)
		rename(t, stored.path, stored.path+".1")
		time.Sleep(lookInterval / 2)
		if _, err := os.Stat(stored.path); err != nil {
			t.Errorf("the broker has not looked: %v", err)
		}
		if old := bustest.Lines(t, file(stored.path+".1")); len(old) != 2 {
			t.Errorf("the old file has %q", old)
		}
		close(loopEnded)
		stored.must(<-result)
	})
}

// A log is renamed while a line of it is torn, at any byte. The broker cuts the beginning of the
// line off the old file, and writes the whole line to the new one.
func TestRotationWithALineInHand(t *testing.T) {
	for _, test := range []struct{ size, step int }{
		{100, 1}, {7 * gatherSize, 40_009}, // a line of several writes
	} {
		texts := []string{"first", "it's\n", strings.Repeat("'", test.size), "last"}
		whole := newStored(t, nil)
		whole.queue(texts...)
		whole.must(whole.Drain())
		_, first := header(t, whole.path) // not limited
		for room := 0; room < len(file(whole.path))-first; room += test.step {
			rotateWithRoom(t, room, texts)
		}
	}
}

// rotateWithRoom rotates a log on a disk that has room for so many bytes, which is less than the
// lines of texts need.
func rotateWithRoom(t *testing.T, room int, texts []string) {
	t.Helper()
	stored := openStored(t, filepath.Join(t.TempDir(), "log"), nil)
	defer stored.Close()
	disk := &limited{stored.store, room}
	stored.drainer.log.writer = disk
	stored.queue(texts...)
	if err := stored.Drain(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%d bytes: Drain returns %v", room, err)
	}
	torn := file(stored.path)
	want := torn[:strings.LastIndexByte(torn, '\n')+1]
	rename(t, stored.path, stored.path+".1")
	if err := stored.Drain(); !errors.Is(err, syscall.ENOSPC) { // as full as it was
		t.Fatalf("%d bytes: Drain returns %v", room, err)
	}
	if old := file(stored.path + ".1"); old != want {
		t.Fatalf("%d bytes: the old file ends with %q", room, old[max(0, len(old)-100):])
	}
	os.Remove(stored.path + ".1") // to make room
	disk.room = endless
	stored.must(stored.Drain())
	got := bustest.Received(t, want+file(stored.path))["t"]
	wanted := []string{texts[0], strings.ReplaceAll(texts[1], "\n", `\n`), texts[2], texts[3]}
	if !slices.Equal(got, wanted) || unwritten(stored.Broker) > 0 {
		t.Fatalf("%d bytes: %d messages in both files, %d queued",
			room, len(got), unwritten(stored.Broker))
	}
}

// obstacle is something that keeps a broker from opening its log after a rotation.
type obstacle struct {
	begin, end func(t *testing.T, path string)
	reason     string // the error, with %s for the path
}

// obstacles has obstacles by name.
var obstacles = map[string]obstacle{
	"no directory": {
		func(t *testing.T, path string) { rename(t, filepath.Dir(path), away(path)) },
		func(t *testing.T, path string) { rename(t, away(path), filepath.Dir(path)) },
		"open %s: no such file or directory",
	},
	"no permission": {
		func(t *testing.T, path string) {
			if os.Getuid() == 0 {
				t.Skip("root has every permission")
			}
			rename(t, path, path+".1")
			os.Chmod(filepath.Dir(path), 0o500)
		},
		func(t *testing.T, path string) { os.Chmod(filepath.Dir(path), 0o700) },
		"open %s: permission denied",
	},
	"a directory": {
		func(t *testing.T, path string) {
			rename(t, path, path+".1")
			os.Mkdir(path, 0o700)
		},
		remove,
		"%s: must be a regular file",
	},
	"another broker": {
		func(t *testing.T, path string) {
			rename(t, path, path+".1")
			other, err := os.Create(path)
			if err == nil {
				err = osfile.Lock(other)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { other.Close() })
		},
		remove,
		"%s: in use by another broker",
	},
}

// remove removes the file or directory path.
func remove(_ *testing.T, path string) { os.Remove(path) }

// away returns another name for the directory of path.
func away(path string) string { return filepath.Dir(path) + ".away" }

// While the log can't be opened, the broker keeps the messages and tries again. One line on
// standard error reports the beginning, and one line in the log the end.
func TestLogCantBeOpened(t *testing.T) {
	for name, obstacle := range obstacles {
		t.Run(name, func(t *testing.T) { obstacle.test(t) })
	}
}

// test keeps a broker from opening its log for three drains.
func (o obstacle) test(t *testing.T) {
	stored := newStored(t, nil)
	reason := fmt.Sprintf(o.reason, stored.path)
	stored.queue("before")
	stored.must(stored.Drain())
	o.begin(t, stored.path)
	for kept := 1; kept <= 3; kept++ {
		stored.queue(fmt.Sprint(kept))
		err := stored.Drain()
		if err == nil || err.Error() != reason || stored.drainer.log.isPermanent(err) {
			t.Fatalf("Drain returns %v, want %s", err, reason)
		}
		stored.awaitReport()
		if unwritten(stored.Broker) != kept {
			t.Errorf("%d messages of %d count as queued", unwritten(stored.Broker), kept)
		}
	}
	reports := bustest.Lines(t, stored.stderr.String())
	if !slices.Equal(reports, []string{"Broker: the log fails, retrying: " + reason}) {
		t.Errorf("standard error has %q", reports)
	}
	o.end(t, stored.path)
	stored.must(stored.Drain())
	stored.must(stored.drainer.drain(false)) // the line about the outage
	log := logFiles{stored.path + ".1", stored.path}.String()
	got, want := bustest.Received(t, log)["t"], []string{"before", "1", "2", "3"}
	if !slices.Equal(got, want) {
		t.Errorf("the log has %q", got)
	}
	lines := bustest.Lines(t, log)
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, outageLine) || !strings.HasSuffix(last, ": "+reason) {
		t.Errorf("the last line is %s", last)
	}
}

// awaitReport waits until no line is being written to standard error.
func (s *stored) awaitReport() {
	s.t.Helper()
	bustest.Until(s.t, "standard error", func() bool {
		if !s.drainer.reporting.TryLock() {
			return false
		}
		s.drainer.reporting.Unlock()
		return true
	})
}

// The path of a log is printed on one line, whatever its bytes.
func TestOutageOfALogWithAnOddName(t *testing.T) {
	stored := openStored(t, filepath.Join(t.TempDir(), "it's\na log"), nil)
	t.Cleanup(stored.Close)
	rename(t, stored.path, stored.path+".1")
	if err := os.Mkdir(stored.path, 0o700); err != nil {
		t.Fatal(err)
	}
	stored.queue("1")
	if err := stored.Drain(); err == nil {
		t.Error("Drain returns nil without a log")
	}
	if err := os.Remove(stored.path); err != nil {
		t.Fatal(err)
	}
	stored.must(stored.Drain())
	stored.must(stored.drainer.drain(false)) // the line about the outage
	const reason = `/it's\na log: must be a regular file`
	lines := bustest.Lines(t, file(stored.path))
	last, queued := lines[len(lines)-1], unwritten(stored.Broker)
	if !strings.HasSuffix(last, reason) || queued != 0 {
		t.Errorf("%d messages count as queued, and the last line is %s", queued, last)
	}
	bustest.Until(t, "standard error", func() bool {
		return strings.HasSuffix(stored.stderr.String(), reason+"\n")
	})
	bustest.Lines(t, stored.stderr.String())
}
