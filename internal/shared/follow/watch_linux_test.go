package follow_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/follow"
)

const (
	poll    = 200 * time.Millisecond // the longest Wait
	atOnce  = 100 * time.Millisecond // a Wait that a change ends is shorter
	header  = "2026/11/29 06:00:00 Broker: file 1 of log 5b1b30b6c2830ccd: mbus.log\n"
	header2 = "2026/11/29 06:00:00 Broker: file 2 of log 5b1b30b6c2830ccd, " +
		"after 73 bytes of file 1: mbus.log\n"
)

// watched is a log in a directory, and a Follower that has read all of it.
type watched struct {
	*follow.Follower
	t         *testing.T
	directory string
}

func watch(t *testing.T, text string) watched {
	directory := t.TempDir()
	path := filepath.Join(directory, "mbus.log")
	if text != "" {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := watched{follow.New(path, func(string) {}), t, directory}
	t.Cleanup(log.Close)
	return log
}

// read returns all lines that the Follower has at present.
func (w watched) read() (lines []string) {
	w.t.Helper()
	for {
		line, err := w.Next()
		if err != nil {
			w.t.Fatal(err)
		}
		if line == nil {
			return lines
		}
		lines = append(lines, string(line))
	}
}

// settle waits until there is nothing new to watch, and no change to report.
func (w watched) settle() {
	w.t.Helper()
	for range 20 {
		w.read()
		if begin := time.Now(); w.wait() && time.Since(begin) >= poll {
			return
		}
	}
	w.t.Fatal("each wait ends early")
}

// wait waits once, and reports whether the wait ended without the end of its context.
func (w watched) wait() bool {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*poll)
	defer cancel()
	w.Wait(ctx)
	return ctx.Err() == nil
}

// write appends text to a file of the directory.
func (w watched) write(name, text string) {
	w.t.Helper()
	file, err := os.OpenFile(filepath.Join(w.directory, name),
		os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		w.t.Fatal(err)
	}
}

// expect fails the test unless change makes Wait end at once, and then the lines are there. A look
// may be too early, so there may be several.
func (w watched) expect(what, want string, change func()) {
	w.t.Helper()
	changed := make(chan time.Time)
	go func() {
		time.Sleep(poll / 10) // so that Wait waits
		begin := time.Now()
		change()
		changed <- begin
	}()
	got := ""
	for deadline := time.Now().Add(10 * time.Second); got != want; {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: read %q, want %q", what, got, want)
		}
		w.wait()
		got += strings.Join(w.read(), "")
	}
	if took := time.Since(<-changed); took > atOnce {
		w.t.Errorf("%s: the lines came after %s", what, took)
	}
}

// A change of the log ends Wait, whatever the change is.
func TestWaitEnds(t *testing.T) {
	log := watch(t, header)
	log.settle()
	log.expect("a line", "a\n", func() { log.write("mbus.log", "a\n") })
	log.settle()
	path := filepath.Join(log.directory, "mbus.log")
	os.Rename(path, path+".1")
	log.settle()
	log.expect("a line after the rename", "b\n", func() { log.write("mbus.log.1", "b\n") })
	log.settle()
	log.expect("a new file", header2, func() { log.write("mbus.log", header2) })
	log.settle()
	log.expect("a line of the new file", "c\n", func() { log.write("mbus.log", "c\n") })
}

// A change after the last look and before the first Wait ends that Wait.
func TestWaitAfterChange(t *testing.T) {
	log := watch(t, header)
	log.read()
	begin := time.Now()
	log.write("mbus.log", "a\n")
	log.wait()
	if lines := log.read(); len(lines) != 1 || time.Since(begin) > atOnce {
		t.Errorf("after %s: %q", time.Since(begin), lines)
	}
}

// The first line of a new FILE that has been empty until then ends Wait.
func TestWaitForEmptyFile(t *testing.T) {
	log := watch(t, header+"a\nb\n")
	path := filepath.Join(log.directory, "mbus.log")
	log.settle()
	os.Rename(path, path+".1")
	log.write("mbus.log", "")
	log.settle()
	log.expect("a first line", header2, func() { log.write("mbus.log", header2) })
}

// A log that is made while it is awaited ends Wait.
func TestWaitForLog(t *testing.T) {
	log := watch(t, "")
	log.settle()
	log.expect("the log", header, func() { log.write("mbus.log", header) })
}

// A file that does not belong to the log does not end Wait: the state of a consumer would.
func TestWaitIgnores(t *testing.T) {
	log := watch(t, header)
	log.write("orders.state", "x")
	log.settle()
	for _, name := range []string{"orders.state", "mbus.log.state", "new", "mbus.log.gz"} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			time.Sleep(poll / 10)
			log.write(name, "x")
		}()
		begin := time.Now()
		log.wait()
		if took := time.Since(begin); took < poll {
			t.Errorf("%s ended Wait after %s", name, took)
		}
		<-done
	}
}

// The end of its context ends Wait.
func TestWaitStops(t *testing.T) {
	log := watch(t, header)
	log.settle()
	ctx, cancel := context.WithTimeout(t.Context(), poll/10)
	defer cancel()
	begin := time.Now()
	log.Wait(ctx)
	if took := time.Since(begin); took > atOnce {
		t.Errorf("it took %s", took)
	}
}

// Where nothing can be watched, Wait is shorter.
func TestWaitWithoutDirectory(t *testing.T) {
	log := follow.New(filepath.Join(t.TempDir(), "none", "mbus.log"), func(string) {})
	defer log.Close()
	for range 3 {
		if line, err := log.Next(); line != nil || err != nil {
			t.Fatalf("%q, %v", line, err)
		}
		begin := time.Now()
		log.Wait(t.Context())
		if took := time.Since(begin); took < poll/4 || took >= poll {
			t.Errorf("it took %s", took)
		}
	}
}

// Close ends all watches.
func TestWatchesEnd(t *testing.T) {
	before := descriptors(t)
	log := watch(t, header)
	log.settle()
	log.Close()
	if after := descriptors(t); after != before {
		t.Errorf("%d files are open, %d before", after, before)
	}
}

// descriptors returns how many files this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
