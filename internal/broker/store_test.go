//go:build unix

package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/logfile"
	"mbus/internal/shared/logline"
)

// stored is a broker under test with LogFile, and a client of it.
type stored struct {
	*Broker
	*bustest.Client // its Log is the file
	t               *testing.T
	path            string
	store           *store
	stderr          *bustest.Record
	ended           chan error // receives the error of ProducerListen
}

// openStored returns a broker that does not serve yet, whose log is the file path. It has the
// default configuration but for the interval, which is quiet. set may change the
// configuration.
func openStored(t *testing.T, path string, set func(*BrokerConfig)) *stored {
	t.Helper()
	stored := &stored{t: t, path: path, stderr: &bustest.Record{}, ended: make(chan error, 1)}
	config := DefaultConfig()
	config.ProducerPort, config.Interval = "0", quiet
	config.LogFile, config.Log = path, stored.stderr
	if set != nil {
		set(config)
	}
	var err error
	if stored.Broker, err = New(config); err != nil {
		t.Fatal(err)
	}
	stored.store = stored.drainer.log.store
	stored.Client = bustest.NewClient(t, stored.Addr().String(), logFiles{path})
	return stored
}

// newStored is openStored with a new file. It closes the broker when the test ends.
func newStored(t *testing.T, set func(*BrokerConfig)) *stored {
	t.Helper()
	stored := openStored(t, filepath.Join(t.TempDir(), "log"), set)
	t.Cleanup(stored.Close)
	return stored
}

// serve starts ProducerListen. When the test ends, serve closes the broker, which must write all
// messages.
func (s *stored) serve() {
	s.t.Helper()
	go func() { s.ended <- s.ProducerListen() }()
	s.t.Cleanup(func() {
		s.Close()
		s.must(receive(s.t, s.ended))
	})
	s.Expect("Broker: listening on " + s.Address)
}

// queue queues a payload of one message for each of texts on the topic t.
func (s *stored) queue(texts ...string) {
	s.t.Helper()
	queueTexts(s.t, s.Broker, "t", texts...)
}

// must fails the test unless err is nil.
func (s *stored) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// logFiles has the paths of a log in several files, the oldest first. Files may be missing.
type logFiles []string

func (l logFiles) String() string {
	var log strings.Builder
	for _, path := range l {
		text, _ := os.ReadFile(path)
		log.Write(text)
	}
	return log.String()
}

// rename renames the file from to to.
func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// writeFile makes the file path with text.
func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// cutReport is the line of the log about a torn line that was cut off, with %d for its size.
const cutReport = "Broker: cut %d bytes of a torn line off the end of the log"

// A torn line is cut off, whatever its length and its place in the file.
func TestTornLineIsCut(t *testing.T) {
	const block = 64 << 10
	path := filepath.Join(t.TempDir(), "log")
	for _, whole := range []int{0, 100, block - 1, block, block + 1, 2 * block} {
		text := ""
		if whole > 0 {
			text = logline.StampFormat + strings.Repeat("x", whole-stampSize-1) + "\n"
		}
		for _, torn := range []int{0, 1, block - 2, block - 1, block, block + 1, 3*block + 7} {
			writeFile(t, path, text+(logline.StampFormat + strings.Repeat("'", torn))[:torn])
			cut, want := "", ""
			if torn > 0 {
				want = fmt.Sprintf(cutReport, torn)
			}
			store := &store{path: path, notify: func(line string) { cut = line }}
			if err := store.open(); err != nil {
				t.Fatal(err)
			}
			store.close()
			rest, found := strings.CutPrefix(file(path), text)
			_, isHeader := logfile.Parse([]byte(rest))
			if !found || isHeader != (whole == 0) || !isHeader && rest != "" || cut != want {
				t.Errorf("of %d bytes and a torn line of %d, %d bytes and %q are left: %q",
					whole, torn, len(text), rest, cut)
			}
		}
	}
}

// stampSize is the size of the time stamp that each line begins with.
const stampSize = len(logline.StampFormat)

// header returns the header of the file path, and the size of its line. It fails the test if there
// is none.
func header(t *testing.T, path string) (header logfile.Header, size int) {
	t.Helper()
	line, _, _ := strings.Cut(file(path), "\n")
	header, found := logfile.Parse([]byte(line + "\n"))
	if !found {
		t.Fatalf("the first line of %s is %q", path, line)
	}
	return header, len(line) + 1
}

// file returns the text of a file, "" if there is none.
func file(path string) string {
	return logFiles{path}.String()
}

// A line of the log reports a torn line that was cut off when the broker started, or when it
// opened another file.
func TestTornLineIsReported(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const line = "2026/01/02 03:04:05 Received new message from topic 't': 'it'\n"
	writeFile(t, path, line+line[:len(line)-2])
	stored := openStored(t, path, nil)
	stored.serve()
	stored.Expect(fmt.Sprintf(cutReport, len(line)-2))
	writeFile(t, path+".new", line[:4])
	rename(t, path, path+".1")
	rename(t, path+".new", path)
	stored.Expect(fmt.Sprintf(cutReport, 4))
	old := file(path + ".1")
	if lines := bustest.Lines(t, old); len(lines) != 4 || !strings.HasPrefix(old, line) {
		t.Errorf("the old file has %q", lines)
	}
	if got := bustest.Lines(t, file(path)); len(got) != 2 {
		t.Errorf("the new file has %q", got)
	}
}

// A broker that is closed before it serves unlocks its log. By then the log has the line about a
// torn line. If the closed broker serves after all, it opens the log anew.
func TestCloseBeforeServingFreesTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	writeFile(t, path, "2026")
	first := openStored(t, path, nil)
	first.Close()
	first.Close() // a second time does no harm
	want := fmt.Sprintf(cutReport, 4)
	if got := bustest.Lines(t, file(path)); len(got) != 2 || got[1] != want {
		t.Errorf("the log has %q", got)
	}
	openStored(t, path, nil).Close() // a second broker
	if err := first.ProducerListen(); err != nil {
		t.Error(err)
	}
	first.Expect("Broker: stopped")
}

// The owner of a new log can write it, and the owner and the group can read it.
func TestLogMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	stored := newStored(t, nil)
	if info, err := os.Stat(stored.path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, error %v", info, err)
	}
}

// refuseLog fails the test unless New refuses the log path for that reason.
func refuseLog(t *testing.T, path, reason string) {
	t.Helper()
	config := DefaultConfig()
	config.ProducerPort, config.LogFile = "0", path
	if _, err := New(config); err == nil || err.Error() != reason {
		t.Errorf("%s: New returns %v, want %s", path, err, reason)
	}
}

// A file is the log of at most one broker, by any of its names.
func TestLogOfAnotherBroker(t *testing.T) {
	path := newStored(t, nil).path
	directory := filepath.Dir(path)
	hard, symbolic := filepath.Join(directory, "hard"), filepath.Join(directory, "symbolic")
	if err := errors.Join(os.Link(path, hard), os.Symlink("log", symbolic)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(directory)
	writeFile(t, path, "torn") // in the middle of the first broker's write
	parent := "../" + filepath.Base(directory) + "/log"
	for _, name := range []string{path, hard, symbolic, "log", parent} {
		refuseLog(t, name, name+": in use by another broker")
	}
	if left := file(path); left != "torn" {
		t.Errorf("the log is %q", left)
	}
	// The first broker has not noticed yet that its file was renamed.
	rename(t, path, path+".1")
	first := logfile.Header{Log: 1, Number: 1, Name: "log"}
	writeFile(t, path+".1", string(first.Append(nil, time.Now())))
	refuseLog(t, path, path+".1: in use by another broker")
}

// Nothing but a regular file is a log.
func TestLogIsARegularFile(t *testing.T) {
	directory := t.TempDir()
	fifo, symbolic := filepath.Join(directory, "fifo"), filepath.Join(directory, "symbolic")
	err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.Symlink(directory, symbolic))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{directory, fifo, symbolic, os.DevNull} {
		refuseLog(t, path, path+": must be a regular file")
	}
	missing := filepath.Join(directory, "missing", "log")
	refuseLog(t, missing, "open "+missing+": no such file or directory")
}

// If the log is renamed while it is opened, the file that then has the name is opened.
func TestRenameWhileOpening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, renames := range []int{1, openAttempts - 1, openAttempts} {
		store := &store{path: path}
		store.observe = func(change string, _ []byte, _ int64) {
			if renames--; change == "open" && renames >= 0 {
				rename(t, path, path+".1")
				if renames%2 == 0 { // another file gets the name
					writeFile(t, path, "")
				}
			}
		}
		err := store.open()
		if renames == 0 {
			if err == nil || err.Error() != path+": renamed faster than it can be opened" {
				t.Errorf("open returns %v", err)
			}
			continue
		}
		if isNew, _ := store.look(0); err != nil || isNew {
			t.Errorf("open opens another file, error %v", err)
		}
		store.close()
	}
}

// If the log's directory is renamed while the log is opened, the error is not that of a failed
// sync, and opening can be tried again.
func TestRenameOfTheDirectoryWhileOpening(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "directory")
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	store := &store{path: filepath.Join(directory, "log"), synced: true}
	defer store.close()
	store.observe = func(change string, _ []byte, _ int64) {
		if change == "sync" { // of the file, before the directory's
			store.observe = nil
			rename(t, directory, directory+".away")
		}
	}
	if err := store.open(); !errors.Is(err, os.ErrNotExist) || new(logWriter).isPermanent(err) {
		t.Errorf("open returns %v", err)
	}
	rename(t, directory+".away", directory)
	if err := store.open(); err != nil {
		t.Error(err)
	}
	store.close()
	store.observe = func(change string, _ []byte, _ int64) {
		if change == "sync" { // of the file, which loses its name alone
			store.observe = nil
			rename(t, store.path, store.path+".1")
		}
	}
	if err := store.open(); err != nil {
		t.Error(err)
	}
}

// inMemory returns a directory in memory, where a sync costs nothing, or a temporary one on
// disk.
func inMemory(t *testing.T) string {
	directory, err := os.MkdirTemp("/dev/shm", "mbus")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return directory
}

// limited is a store on a disk with little room.
type limited struct {
	*store
	room int // in bytes
}

func (l *limited) Write(text []byte) (int, error) {
	taken := min(len(text), l.room)
	l.room -= taken
	if count, err := l.store.Write(text[:taken]); err != nil || taken == len(text) {
		return count, err
	}
	return taken, full
}
