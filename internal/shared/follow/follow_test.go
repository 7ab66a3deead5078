package follow_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/follow"
)

// patience is the longest time that a test waits for a line.
const patience = 20 * time.Second

// logFiles is a log that the test writes and rotates.
type logFiles struct {
	t    *testing.T
	path string
}

func newLog(t *testing.T) logFiles {
	return logFiles{t, filepath.Join(t.TempDir(), "mbus.log")}
}

func (log logFiles) check(err error) {
	log.t.Helper()
	if err != nil {
		log.t.Fatal(err)
	}
}

// write appends text to the log's file with this suffix.
func (log logFiles) write(suffix, text string) {
	log.t.Helper()
	file, err := os.OpenFile(log.path+suffix, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	log.check(err)
	_, err = file.WriteString(text)
	log.check(err)
	log.check(file.Close())
}

func (log logFiles) rename(from, to string) {
	log.t.Helper()
	log.check(os.Rename(log.path+from, log.path+to))
}

func (log logFiles) truncate(suffix string, size int64) {
	log.t.Helper()
	log.check(os.Truncate(log.path+suffix, size))
}

func (log logFiles) copy(from, to string) {
	log.t.Helper()
	text, err := os.ReadFile(log.path + from)
	log.check(err)
	log.check(os.WriteFile(log.path+to, text, 0o600))
}

// age sets the modification time of a file to so many seconds ago.
func (log logFiles) age(suffix string, seconds int) {
	log.t.Helper()
	when := time.Now().Truncate(time.Second).Add(-time.Duration(seconds) * time.Second)
	log.check(os.Chtimes(log.path+suffix, when, when))
}

// reader follows a log under test.
type reader struct {
	*follow.Follower
	t *testing.T
}

func (log logFiles) follow() reader {
	follower := follow.New(log.path)
	log.t.Cleanup(func() { follower.Close() })
	return reader{follower, log.t}
}

// expect reads lines until they are want or there is an error, which it returns. It fails the
// test if there are other lines, or more lines at once.
func (reader reader) expect(want string) error {
	reader.t.Helper()
	var got strings.Builder
	for deadline := time.Now().Add(patience); ; reader.Wait(reader.t.Context()) {
		for {
			line, err := reader.Next()
			if err != nil {
				if got.String() != want {
					reader.t.Errorf("read %q before %v, want %q", got.String(), err, want)
				}
				return err
			}
			if line == nil {
				break
			}
			got.Write(line)
			if line[len(line)-1] != '\n' {
				got.WriteString("<torn>\n")
			}
		}
		switch {
		case got.String() == want:
			return nil
		case !strings.HasPrefix(want, got.String()) || time.Now().After(deadline):
			reader.t.Errorf("read %q, want %q", got.String(), want)
			return nil
		}
	}
}

// must is expect without an error.
func (reader reader) must(want string) {
	reader.t.Helper()
	if err := reader.expect(want); err != nil {
		reader.t.Errorf("after %q: %v", want, err)
	}
}

// long is a line of more bytes than identify a position.
var long = strings.Repeat("long ", 1000) + "\n"

// change is a test of a change to the files of a log.
type change struct {
	before string             // the lines of the log before the change, which are read
	change func(log logFiles) // makes the change
	want   string             // the lines to be read after it
	lost   error              // the error after these lines
}

// Each line is read once and in order through a rotation.
func TestRotation(t *testing.T) {
	eachChange(t, map[string]change{
		"nothing":    {"a\n", func(logFiles) {}, "", nil},
		"more lines": {"a\n", func(log logFiles) { log.write("", "b\nc\n") }, "b\nc\n", nil},
		"one number": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			log.write("", "b\n")
		}, "b\n", nil},
		"no new file yet": {"a\n", func(log logFiles) { log.rename("", ".1") }, "", nil},
		"an empty new file": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			log.write("", "")
		}, "", nil},
		"one date": {"a\n", func(log logFiles) {
			log.rename("", "-20261124")
			log.write("", "b\n")
		}, "b\n", nil},
		"last lines after the rename": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			log.write("", "")
			log.write(".1", "b\nc\n")
			log.write("", "d\n")
		}, "b\nc\nd\n", nil},
	})
}

// Several new files are read in their order.
func TestOrder(t *testing.T) {
	eachChange(t, map[string]change{
		"several numbers": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			for i, text := range []string{"b\n", "", "c\n", "d\n"} {
				log.write("", text)
				for number := i + 1; number > 0; number-- {
					log.rename(fmt.Sprint(".", number), fmt.Sprint(".", number+1))
				}
				log.rename("", ".1")
			}
			log.write("", "e\n")
		}, "b\nc\nd\ne\n", nil},
		"several dates": {"a\n", func(log logFiles) {
			log.rename("", "-2026-11-24")
			log.write("-2026-11-25", "b\n")
			log.write("-2026-11-26.1", "c\n")
			log.write("", "d\n")
		}, "b\nc\nd\n", nil},
		"equal times, numbers": {"a\n", func(log logFiles) {
			log.rename("", ".10")
			log.write(".9", "b\n")
			log.write(".2", "c\n")
			log.write(".1", "d\n")
			log.write("", "e\n")
			for _, suffix := range []string{"", ".1", ".2", ".9", ".10"} {
				log.age(suffix, 60)
			}
		}, "b\nc\nd\ne\n", nil},
		"equal times, dates": {"a\n", func(log logFiles) {
			log.rename("", "-20251231")
			log.write("-20260101", "b\n")
			log.write("-20260102", "c\n")
			log.write("-20260102.1", "d\n")
			log.write("", "e\n")
			suffixes := []string{"", "-20251231", "-20260101", "-20260102", "-20260102.1"}
			for _, suffix := range suffixes {
				log.age(suffix, 60)
			}
		}, "b\nc\nd\ne\n", nil},
		"times before names": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			log.write(".2", "b\n")
			log.write("", "c\n")
			log.age(".1", 60)
			log.age(".2", 30)
		}, "b\nc\n", nil},
	})
}

// After a copy or a truncation, reading continues in the file that has the position. If there is
// none, the position is lost.
func TestTruncation(t *testing.T) {
	eachChange(t, map[string]change{
		"a copy": {"a\n", func(log logFiles) {
			log.copy("", ".1")
			log.write("", "b\n")
		}, "b\n", nil},
		"a copy, then truncated": {long, func(log logFiles) {
			log.write("", "b\n")
			log.copy("", ".1")
			log.truncate("", 0)
			log.write("", "c\n")
		}, "b\nc\n", nil},
		"a copy, then truncated and longer than before": {"a\n", func(log logFiles) {
			log.copy("", ".1")
			log.truncate("", 0)
			log.write("", "b\nc\nd\n")
		}, "b\nc\nd\n", nil},
		"truncated": {"a\n", func(log logFiles) { log.truncate("", 0) }, "", follow.ErrLost},
		"truncated, and grew less": {"a\nb\n", func(log logFiles) {
			log.truncate("", 0)
			log.write("", "c\n")
		}, "", follow.ErrLost},
		"truncated, and grew as far": {"a\n", func(log logFiles) {
			log.truncate("", 0)
			log.write("", "c\n")
		}, "", follow.ErrLost},
		"truncated, and grew more": {"a\n", func(log logFiles) {
			log.truncate("", 0)
			log.write("", "c\nd\n")
		}, "", follow.ErrLost},
		"truncated, other first bytes": {"a\n" + long + long, func(log logFiles) {
			log.truncate("", 0)
			log.write("", "b\n"+long+long+"c\n")
		}, "", follow.ErrLost},
		"truncated, other last bytes": {long + "a\n", func(log logFiles) {
			log.truncate("", 0)
			log.write("", long+"b\n"+"c\n")
		}, "", follow.ErrLost},
	})
}

// A torn end of an old file is passed. In the newest file, the rest of its line is awaited.
// Files beside the log that do not belong to it are not read.
func TestTornEnds(t *testing.T) {
	eachChange(t, map[string]change{
		"other files beside it": {"a\n", func(log logFiles) {
			others := []string{".1.gz", ".old", "-", ".", "1", ".a", "-1x", ".1~", "x.1", "..1"}
			for _, suffix := range others {
				log.write(suffix, "no\n")
			}
			log.check(os.Mkdir(log.path+".3", 0o700))
			log.check(os.WriteFile(filepath.Dir(log.path)+"/x-mbus.log.1", []byte("no\n"), 0o600))
			log.rename("", ".1")
			log.write("", "b\n")
		}, "b\n", nil},
		"a torn end in an old file": {"a\n", func(log logFiles) {
			log.write("", "b\ntorn")
			log.rename("", ".1")
			log.write("", "c\n")
		}, "b\ntorn<torn>\nc\n", nil},
		"a torn end in an old file, the new one empty": {"a\n", func(log logFiles) {
			log.write("", "b\ntorn")
			log.rename("", ".1")
			log.write("", "")
		}, "b\n", nil},
		"a torn end in the newest file": {"a\n", func(log logFiles) {
			log.write("", "b\ntorn")
		}, "b\n", nil},
		"no new line in the new file yet": {"a\n", func(log logFiles) {
			log.write("", "torn")
			log.rename("", ".1")
			log.write("", "b")
		}, "torn<torn>\n", nil},
		"a file of torn ends between": {"a\n", func(log logFiles) {
			log.rename("", ".2")
			log.write(".1", "torn")
			log.write("", "b\n")
		}, "torn<torn>\nb\n", nil},
	})
}

// eachChange makes each change. It fails the test unless a Follower from before the change and
// a new one at its position read what is wanted, or report that the position is lost.
func eachChange(t *testing.T, changes map[string]change) {
	for name, test := range changes {
		t.Run(name, func(t *testing.T) {
			log := newLog(t)
			log.write("", test.before)
			there := log.follow()
			there.must(test.before)
			position := there.Position()
			test.change(log)
			if err := there.expect(test.want); !errors.Is(err, test.lost) {
				t.Errorf("the old Follower: %v, want %v", err, test.lost)
			}
			back := log.follow()
			if err := back.Seek(position); !errors.Is(err, test.lost) {
				t.Errorf("the new Follower: %v, want %v", err, test.lost)
			}
			if test.lost != nil {
				return
			}
			back.must(test.want)
			last := there.Position()
			if last != back.Position() || !there.At(last) || !back.At(last) {
				t.Errorf("positions %v and %v", last, back.Position())
			}
			// A third one at their position reads nothing but torn ends and the new line.
			third := log.follow()
			if err := third.Seek(last); err != nil {
				t.Error(err)
			}
			log.write("", "\n")
			for _, each := range []reader{there, back, third} {
				for {
					line, err := each.Next()
					if err != nil || line == nil {
						t.Fatalf("%q, %v", line, err)
					}
					if line[len(line)-1] == '\n' {
						break
					}
				}
			}
		})
	}
}

// A Follower reads a removed file to its end, and then the file that follows. A new Follower
// does not find the position, even if the new file has the inode of the old.
func TestRemoved(t *testing.T) {
	log := newLog(t)
	log.write("", "a\n")
	there := log.follow()
	there.must("a\n")
	position := there.Position()
	log.write("", "b\n")
	log.check(os.Remove(log.path))
	there.must("b\n")
	log.write("", "c\nd\n")
	there.must("c\nd\n")
	if err := log.follow().Seek(position); !errors.Is(err, follow.ErrLost) {
		t.Error(err)
	}
	inode, err := os.Stat(log.path)
	log.check(err)
	there.Close()
	reused := false
	for range 100 {
		log.check(os.Remove(log.path))
		log.write("", "x\nyz\n")
		again, err := os.Stat(log.path)
		log.check(err)
		if reused = os.SameFile(inode, again); reused {
			break
		}
	}
	t.Logf("the inode was used again: %v", reused)
	if err := log.follow().Seek(there.Position()); !errors.Is(err, follow.ErrLost) {
		t.Error(err)
	}
}

// A Follower does not skip a file that was removed before it had seen the file.
func TestRemovedUnread(t *testing.T) {
	log := newLog(t)
	log.write("", "a\n")
	slow := log.follow()
	if line, err := slow.Next(); string(line) != "a\n" || err != nil { // it has not seen the end
		t.Fatalf("%q, %v", line, err)
	}
	log.check(os.Remove(log.path))
	log.write("", "b\n")
	log.check(os.Remove(log.path))
	log.write("", "c\n")
	if err := slow.expect(""); !errors.Is(err, follow.ErrLost) {
		t.Error(err)
	}
}

// A log that has lost its end after the position, in a power loss or because the broker cut a
// torn end off, is read from the position on.
func TestCutEnd(t *testing.T) {
	long := "torn " + strings.Repeat("x", 100_000)
	for name, torn := range map[string]string{"short": "torn", "long": long} {
		for later, text := range map[string]string{
			"nothing": "", "shorter": "b\n", "longer": strings.Repeat("x", 200_000) + "\n",
			"line by line": strings.Repeat("b\n", 100_000),
		} {
			t.Run(name+", then "+later, func(t *testing.T) {
				for _, before := range []string{"a\n", strings.Repeat("x", 3000) + "\n"} {
					log := newLog(t)
					log.write("", before)
					there := log.follow()
					there.must(before)
					position := there.Position()
					log.write("", torn)
					there.must("")
					log.truncate("", int64(len(before)))
					log.write("", text)
					there.must(text)
					back := log.follow()
					log.check(back.Seek(position))
					back.must(text)
				}
			})
		}
	}
	// A renamed file can lose its torn end, too.
	log := newLog(t)
	log.write("", "a\n")
	log.write("", "torn")
	there := log.follow()
	there.must("a\n")
	log.rename("", ".1")
	log.truncate(".1", 2)
	log.write("", "b\n")
	there.must("b\n")
}

// A line is returned when its line feed has been written, in whatever pieces.
func TestPieces(t *testing.T) {
	log := newLog(t)
	there := log.follow()
	there.must("")
	for _, piece := range []string{"a", "", "b", "\n", "\n\nc"} {
		log.write("", piece)
		if strings.Contains(piece, "\n") {
			there.must(map[string]string{"\n": "ab\n", "\n\nc": "\n\n"}[piece])
		} else {
			there.must("")
		}
	}
	for size := 1; size < 3<<20; size = size*7/2 + 1 {
		text := strings.Repeat("x", size)
		log.write("", text)
		log.write("", "\n")
		log.write("", text)
		there.must(map[bool]string{true: "c"}[size == 1] + text + "\n")
		log.write("", "\n")
		there.must(text + "\n")
		position := there.Position()
		back := log.follow()
		log.check(back.Seek(position))
		back.must("")
	}
}

// From the position at each line of each file, exactly the rest is read.
func TestEachPosition(t *testing.T) {
	log := newLog(t)
	var all []string
	for number, suffix := range []string{".3", ".2", ".1", ""} {
		for i := range 30 {
			line := fmt.Sprintf("%d %d %s\n", number, i, strings.Repeat("x", i*i*(number%2)))
			all = append(all, line)
			log.write(suffix, line)
		}
	}
	there := log.follow()
	for i := range all {
		position := there.Position()
		back := log.follow()
		log.check(back.Seek(position))
		back.must(strings.Join(all[i:], ""))
		if line, err := there.Next(); string(line) != all[i] || err != nil {
			t.Fatalf("line %d: %q, %v, want %q", i, line, err, all[i])
		}
		if there.At(position) || !there.At(there.Position()) {
			t.Errorf("line %d: it is not where it is", i)
		}
	}
}

// Every line is read without waiting, even while no file has the log's name.
func TestAtOnce(t *testing.T) {
	log := newLog(t)
	log.write(".3", "a\n")
	log.write(".2", "b\n")
	log.write(".1", "c\n")
	there := log.follow()
	for _, want := range []string{"a\n", "b\n", "c\n", ""} {
		if line, err := there.Next(); string(line) != want || err != nil {
			t.Errorf("%q, %v, want %q", line, err, want)
		}
	}
}

func TestEnd(t *testing.T) {
	log := newLog(t)
	if _, err := log.follow().End(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	steps := []struct {
		change func()
		want   string // the lines after the end that was before the change
	}{
		{func() { log.write("", "") }, ""},
		{func() { log.write("", "to") }, ""},
		{func() { log.write("", "rn\na\n") }, "torn\na\n"},
		{func() { log.write("", "b") }, ""},
		{func() { log.rename("", ".1") }, ""},
		{func() { log.write("", "c") }, "b<torn>\n"},
		{func() { log.write("", "\nd\n") }, "b<torn>\nc\nd\n"},
		{func() { log.rename("", ".2"); log.write("", long) }, long},
		{func() { log.write("", strings.Repeat("x", 600_000)) }, ""},
		{func() { log.write("", "\n") }, strings.Repeat("x", 600_000) + "\n"},
	}
	var before follow.Position
	for i, step := range steps {
		step.change()
		there := log.follow()
		log.check(there.Seek(before))
		there.must(step.want)
		end, err := there.End()
		if err != nil || !there.At(end) {
			t.Errorf("step %d: %v, and the end is elsewhere", i, err)
		}
		before = end
	}
}

// The end of an older file with as many bytes is not the end of the log.
func TestEndElsewhere(t *testing.T) {
	log := newLog(t)
	log.write(".1", "a\n")
	log.write("", "b\n")
	there := log.follow()
	end, err := there.End()
	log.check(err)
	for _, want := range []string{"a\n", "b\n"} {
		if there.At(end) {
			t.Errorf("before %q it is at the end", want)
		}
		if line, err := there.Next(); string(line) != want || err != nil {
			t.Fatalf("%q, %v, want %q", line, err, want)
		}
	}
	if !there.At(end) {
		t.Error("it is not at the end")
	}
}

// If no line is before the end of the log, its time says which files are before it.
func TestEndOfNothing(t *testing.T) {
	log := newLog(t)
	log.write("", "")
	there := log.follow()
	end, err := there.End()
	log.check(err)
	log.write(".9", "uncompressed again\n")
	log.age(".9", 60)
	log.write("", "a\n")
	log.rename("", ".1")
	log.write("", "b\n")
	shift(log, 1)
	log.check(there.Seek(end))
	there.must("a\nb\n")
}

// With a rotation every 2 ms no line is lost.
func TestManyRotations(t *testing.T) {
	rotations := 60
	if os.Getenv("MBUS_TORTURE") != "" {
		rotations = 600
	}
	for name, rotate := range map[string]func(log logFiles, number int){
		"dates": func(log logFiles, number int) {
			log.rename("", fmt.Sprintf("-%08d", 20260000+number))
		},
		"numbers": shift,
		"numbers, with create": func(log logFiles, number int) {
			shift(log, number)
			log.write("", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := newLog(t)
			go func() {
				for i := range rotations {
					log.write("", fmt.Sprintf("%d\n", i))
					time.Sleep(2 * time.Millisecond)
					rotate(log, i)
				}
				log.write("", "end\n")
			}()
			there := log.follow()
			var got []string
			// Every line has its own file, and each step lists all files.
			limit := patience + time.Duration(rotations)*patience/60
			for deadline := time.Now().Add(limit); !slices.Contains(got, "end\n"); {
				line, err := there.Next()
				switch {
				case err != nil || time.Now().After(deadline):
					t.Fatalf("after %d lines: %v", len(got), err)
				case line == nil:
					there.Wait(t.Context())
				default:
					got = append(got, string(line))
				}
			}
			for i, line := range got[:len(got)-1] {
				if line != fmt.Sprintf("%d\n", i) {
					t.Fatalf("line %d is %q", i, line)
				}
			}
			if len(got) != rotations+1 {
				t.Errorf("read %d lines", len(got))
			}
		})
	}
}

// The last line of a renamed file is read, even if the new file's first line is written a
// moment later, while the Follower looks.
func TestLastLine(t *testing.T) {
	for range 1000 {
		log := newLog(t)
		log.write(".1", "a\n")
		log.write("", "")
		there := log.follow()
		there.must("a\n")
		written := make(chan error)
		go func() {
			last, err := os.OpenFile(log.path+".1", os.O_APPEND|os.O_WRONLY, 0)
			first, firstErr := os.OpenFile(log.path, os.O_APPEND|os.O_WRONLY, 0)
			if err = errors.Join(err, firstErr); err == nil {
				_, err = last.WriteString("last\n")
				_, firstErr = first.WriteString("first\n")
			}
			written <- errors.Join(err, firstErr, last.Close(), first.Close())
		}()
		for _, want := range []string{"last\n", "first\n"} {
			var line []byte
			var err error
			for deadline := time.Now().Add(patience); line == nil && err == nil; {
				if line, err = there.Next(); time.Now().After(deadline) {
					err = errors.New("no line was read")
				}
			}
			if string(line) != want || err != nil {
				t.Fatalf("%q, %v, want %q", line, err, want)
			}
		}
		log.check(<-written)
		there.Close()
	}
}

// shift renames as logrotate does.
func shift(log logFiles, number int) {
	for i := number; i > 0; i-- {
		log.rename(fmt.Sprint(".", i), fmt.Sprint(".", i+1))
	}
	log.rename("", ".1")
}

// A log that can't be one is an error.
func TestNoLog(t *testing.T) {
	log := newLog(t)
	log.check(os.Mkdir(log.path, 0o700))
	for _, path := range []string{log.path, log.path + "/", log.path + "/..", ".", ".."} {
		directory := reader{follow.New(path), t}
		want := path + ": must be a regular file"
		if err := directory.expect(""); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	nowhere := follow.New(filepath.Join(log.path, "none", "log"))
	if err := nowhere.Seek(follow.Position{Offset: 1}); !errors.Is(err, follow.ErrLost) {
		t.Error(err)
	}
}
