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
	"testing/synctest"
	"time"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logfile"
)

// patience is the longest time that a test waits for a line.
const patience = 20 * time.Second

// logFiles is a log that the test writes and rotates.
type logFiles struct {
	t    *testing.T
	path string
}

// id is the id of the log.
const id = 0x5b1b30b6c2830ccd

func newLog(t *testing.T) logFiles {
	return logFiles{t, filepath.Join(t.TempDir(), "mbus.log")}
}

func (l logFiles) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// write appends text to the log's file with this suffix.
func (l logFiles) write(suffix, text string) {
	l.t.Helper()
	file, err := os.OpenFile(l.path+suffix, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	l.check(err)
	_, err = file.WriteString(text)
	l.check(err)
	l.check(file.Close())
}

// number appends the first line of a file to the one with this suffix, and then text.
func (l logFiles) number(suffix string, number, after int, text string) {
	l.t.Helper()
	header := logfile.Header{Log: id, Number: int64(number), After: int64(after), Name: "mbus.log"}
	l.write(suffix, string(header.Append(nil, time.Now()))+text)
}

// next begins a file as a broker does, after the one with the suffix before.
func (l logFiles) next(before, suffix, text string) {
	l.t.Helper()
	whole, err := os.ReadFile(l.path + before)
	l.check(err)
	first, _, _ := strings.Cut(string(whole), "\n")
	header, _ := logfile.Parse([]byte(first + "\n"))
	end := strings.LastIndexByte(string(whole), '\n') + 1
	l.number(suffix, int(max(header.Number, 1))+1, end, text)
}

// rotate renames FILE, and begins the next one.
func (l logFiles) rotate(suffix, text string) {
	l.t.Helper()
	l.rename("", suffix)
	l.next(suffix, "", text)
}

func (l logFiles) rename(from, to string) {
	l.t.Helper()
	l.check(os.Rename(l.path+from, l.path+to))
}

func (l logFiles) truncate(suffix string, size int64) {
	l.t.Helper()
	l.check(os.Truncate(l.path+suffix, size))
}

func (l logFiles) read(suffix string) string {
	l.t.Helper()
	text, err := os.ReadFile(l.path + suffix)
	l.check(err)
	return string(text)
}

// copy copies a file, which makes its time new.
func (l logFiles) copy(from, to string) {
	l.t.Helper()
	l.check(os.WriteFile(l.path+to, []byte(l.read(from)), 0o600))
}

// edit writes a file anew, as an editor does.
func (l logFiles) edit(suffix, old, new string) {
	l.t.Helper()
	text := strings.Replace(l.read(suffix), old, new, 1)
	l.check(os.Remove(l.path + suffix))
	l.write(suffix, text)
}

// age sets the modification time of a file to so many seconds ago.
func (l logFiles) age(suffix string, seconds int) {
	l.t.Helper()
	when := time.Now().Truncate(time.Second).Add(-time.Duration(seconds) * time.Second)
	l.check(os.Chtimes(l.path+suffix, when, when))
}

// reader follows a log under test.
type reader struct {
	*follow.Follower
	t       *testing.T
	reports *[]string
}

func (l logFiles) follow() reader {
	reports := new([]string)
	follower := follow.New(l.path, func(line string) { *reports = append(*reports, line) })
	l.t.Cleanup(func() { follower.Close() })
	return reader{follower, l.t, reports}
}

// expect reads lines, without the first ones of files, until they are want or there is an error,
// which it returns. It fails the test if there are other lines, or more lines at once.
func (r reader) expect(want string) error {
	r.t.Helper()
	return r.until(func(got string) bool { return got == want }, want)
}

// until is expect, and reads until isDone.
func (r reader) until(isDone func(got string) bool, want string) error {
	r.t.Helper()
	var got strings.Builder
	// Not Wait: no time passes in a synctest bubble while Wait waits for the kernel.
	const interval = 75 * time.Millisecond
	for deadline := time.Now().Add(patience); ; time.Sleep(interval) {
		for {
			line, err := r.Next()
			if err != nil {
				if got.String() != want {
					r.t.Errorf("read %q before %v, want %q", got.String(), err, want)
				}
				return err
			}
			if line == nil {
				break
			}
			if _, isFirst := logfile.Parse(line); isFirst {
				continue
			}
			got.Write(line)
			if line[len(line)-1] != '\n' {
				got.WriteString("<torn>\n")
			}
		}
		switch {
		case isDone(got.String()):
			return nil
		case !strings.HasPrefix(want, got.String()) || time.Now().After(deadline):
			r.t.Errorf("read %.300q, want %.300q", got.String(), want)
			return nil
		}
	}
}

// must is expect without an error.
func (r reader) must(want string) {
	r.t.Helper()
	if err := r.expect(want); err != nil {
		r.t.Errorf("after %q: %v", want, err)
	}
}

// readTo reads up to this line.
func (r reader) readTo(want string) {
	r.t.Helper()
	for line := ""; line != want; {
		text, err := r.Next()
		if err != nil {
			r.t.Fatal(err)
		}
		line = string(text)
	}
}

// loses fails the test unless the reader reads want, and then loses the position because of why.
// It returns after how long.
func (r reader) loses(want, why string) time.Duration {
	r.t.Helper()
	begin := time.Now()
	err := r.until(func(string) bool { return false }, want)
	var lost *follow.LostError
	if !errors.As(err, &lost) || !strings.HasSuffix(err.Error(), why) {
		r.t.Errorf("%v, want %s", err, why)
	}
	if _, again := r.Next(); again != err {
		r.t.Errorf("then %v, want the same error", again)
	}
	return time.Since(begin)
}

// long is a line of more bytes than identify a position.
var long = strings.Repeat("long ", 1000) + "\n"

// change is a test of a change to the files of a log.
type change struct {
	before string             // the lines of file 1 before the change, which are read
	change func(log logFiles) // makes the change
	want   string             // the lines to be read after it
	lost   string             // the end of the error after these lines; empty: none
}

// Each line is read once and in order through a rotation.
func TestRotation(t *testing.T) {
	eachChange(t, map[string]change{
		"nothing":    {"a\n", func(logFiles) {}, "", ""},
		"more lines": {"a\n", func(log logFiles) { log.write("", "b\nc\n") }, "b\nc\n", ""},
		"one number": {"a\n", func(log logFiles) { log.rotate(".1", "b\n") }, "b\n", ""},
		"no new file yet": {
			"a\n", func(log logFiles) { log.write("", "b\n"); log.rename("", ".1") }, "b\n", ""},
		"an empty new file": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			log.write("", "")
		}, "", ""},
		"one date": {"a\n", func(log logFiles) { log.rotate("-20261124", "b\n") }, "b\n", ""},
		"last lines after the rename": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			log.write("", "")
			log.write(".1", "b\nc\n")
			log.next(".1", "", "d\n")
		}, "b\nc\nd\n", ""},
		"the file before is gone": {"a\n", func(log logFiles) {
			log.rotate(".1", "b\n")
			log.check(os.Remove(log.path + ".1"))
		}, "b\n", ""},
		"no name is left": {"a\n", func(log logFiles) {
			log.rotate(".1", "b\n")
			log.rotate(".2", "c\n")
			log.check(os.Remove(log.path + ".1"))
			log.rename("", ".3")
		}, "b\nc\n", ""},
	})
}

// Files are read in the order of their numbers, whatever their names and times are.
func TestOrder(t *testing.T) {
	several := func(suffixes ...string) change {
		return change{"a\n", func(log logFiles) {
			for i, suffix := range suffixes {
				log.rotate(suffix, fmt.Sprintf("%d\n", i))
			}
		}, strings.Join([]string{"0\n", "1\n", "2\n", "3\n"}[:len(suffixes)], ""), ""}
	}
	wrong := several(".1", ".2", ".3")
	inOrder := wrong.change
	wrong.change = func(log logFiles) {
		inOrder(log)
		log.age(".1", -3600) // a copy, or a clock that was corrected
		log.age(".2", 3600)
		log.age(".3", 50*365*86400) // before 1970
	}
	eachChange(t, map[string]change{
		"numbers, the newest first": several(".4", ".3", ".2", ".1"),
		"numbers, the oldest first": several(".1", ".2", ".3", ".4"),
		"dates":                     several("-2026-11-24", "-2026-11-25", "-2026-11-26.1"),
		"mixed":                     several("-20261124", ".7", "-2025", ".0"),
		"times":                     wrong,
	})
}

// empty empties FILE, and begins file 2 in it.
func (l logFiles) empty(text string) {
	l.t.Helper()
	size := len(l.read(""))
	l.truncate("", 0)
	l.number("", 2, size, text)
}

const (
	gone    = ": bytes 71 to 75 of file 1 are missing"
	changed = ": file 1 was changed, and does not have it"
)

// truncations are truncations of FILE, and other changes of its bytes.
var truncations = map[string]change{
	"emptied": {"a\n", func(log logFiles) { log.truncate("", 0) }, "", ""},
	"emptied, and begun again": {
		"a\n", func(log logFiles) { log.empty("b\n") }, "b\n", ""},
	"emptied twice": {"a\n", func(log logFiles) {
		log.empty("b\n")
		log.truncate("", 0)
		log.number("", 3, 99, "c\n")
	}, "", ": file 2 is missing"},
	"emptied, with unread lines": {"a\n", func(log logFiles) {
		log.write("", "b\nc\n")
		log.empty("d\n")
	}, "", gone},
	"copytruncate": {"a\n", func(log logFiles) {
		log.write("", "b\nc\n")
		log.copy("", ".1")
		log.empty("d\n")
	}, "b\nc\nd\n", ""},
	"copytruncate with a lost line": {"a\n", func(log logFiles) {
		log.copy("", ".1")
		log.write("", "b\nc\n")
		log.empty("d\n")
	}, "", gone},
	"shorter": {"a\n", func(log logFiles) { log.truncate("", 70) }, "", changed},
	"shorter, and then as long": {"a\n", func(log logFiles) {
		log.truncate("", 70)
		log.write("", "b\nc\n")
	}, "", changed},
	"edited": {"a\nb\n", func(log logFiles) { log.edit("", "a", "A") }, "", changed},
	"other first bytes": {"a\n" + long + long, func(log logFiles) {
		log.edit("", "a\n", "b\n")
	}, "", changed},
	"of no number": {"a\n", func(log logFiles) {
		log.check(os.WriteFile(log.path, []byte("b\n"), 0o600))
	}, "", ": it is another log now, and its first line does not say which"},
}

// After a truncation or a change, reading continues in the file that has the position. If there
// is none, the position is lost.
func TestTruncation(t *testing.T) { eachChange(t, truncations) }

// A torn end of an old file is passed. In the newest file, the rest of its line is awaited.
// Files beside the log that do not belong to it are not read.
func TestTornEnds(t *testing.T) {
	eachChange(t, map[string]change{
		"a torn end in an old file": {"a\n", func(log logFiles) {
			log.write("", "b\ntorn")
			log.rotate(".1", "c\n")
		}, "b\ntorn<torn>\nc\n", ""},
		"a torn end in an old file, the new one empty": {"a\n", func(log logFiles) {
			log.write("", "b\ntorn")
			log.rename("", ".1")
			log.write("", "")
		}, "b\n", ""},
		"a torn end in the newest file": {
			"a\n", func(log logFiles) { log.write("", "b\ntorn") }, "b\n", ""},
		"a torn first line": {"a\n", func(log logFiles) {
			log.rename("", ".1")
			log.write("", "2026/11/29 07:00:00 Broker: file 2 of log 5b1b30b6c28")
		}, "", ""},
		"a torn end, the file emptied": {"a\n", func(log logFiles) {
			log.write("", "torn")
			log.truncate("", 0)
			log.number("", 2, 71, "b\n")
		}, "b\n", ""},
	})
}

// eachChange makes each change. It fails the test unless a Follower from before the change and
// a new one at its position read what is wanted, or lose the position.
func eachChange(t *testing.T, changes map[string]change) {
	for name, test := range changes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test.run(t) })
		})
	}
}

// run makes the change.
func (c change) run(t *testing.T) {
	log := newLog(t)
	log.number("", 1, 0, c.before)
	there := log.follow()
	there.must(c.before)
	position := there.Position()
	c.change(log)
	back := log.follow()
	back.Seek(position)
	if c.lost != "" {
		there.loses(c.want, c.lost)
		back.loses(c.want, c.lost)
		return
	}
	there.must(c.want)
	back.must(c.want)
	last := there.Position()
	if last != back.Position() || !there.At(last) || !back.At(last) {
		t.Errorf("positions %v and %v", last, back.Position())
	}
	// A third one at their position reads nothing.
	third := log.follow()
	third.Seek(last)
	if err := third.expect(""); err != nil {
		t.Error(err)
	}
	if named := log.path; !exists(named) || !strings.Contains(log.read(""), "\n") {
		return // the next line does not belong to FILE
	}
	log.write("", "\nlast\n")
	for _, each := range []reader{there, back, third} {
		each.skipTo("last\n")
	}
}

// skipTo reads up to the line last.
func (r reader) skipTo(last string) {
	r.t.Helper()
	for {
		line, err := r.Next()
		if err != nil || line == nil {
			r.t.Fatalf("%q, %v", line, err)
		}
		if string(line) == last {
			return
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A Follower reads a removed file to its end, and then the file that follows. A new Follower
// does so from the end of the removed file, but not from before, even if the new file has the
// inode of the old.
func TestRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t)
		log.number("", 1, 0, "a\n")
		there := log.follow()
		there.must("a\n")
		before := there.Position()
		log.write("", "b\n")
		log.check(os.Remove(log.path))
		there.must("b\n")
		end := there.Position()
		log.number("", 2, int(end.Offset), "c\nd\n")
		there.must("c\nd\n")
		back := log.follow()
		back.Seek(end)
		back.must("c\nd\n")
		back.Seek(before)
		back.loses("", ": bytes 71 to 73 of file 1 are missing")
	})
}

// An equal copy in the place of FILE is read on, also if nothing was added to it before the
// Follower could have lost its position.
func TestEqualCopyInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t)
		log.number("", 1, 0, "a\n")
		log.rotate(".1", "b\n")
		there := log.follow()
		there.must("a\nb\n")
		text, err := os.ReadFile(log.path)
		log.check(err)
		log.write(".copy", string(text))
		log.rename(".copy", "")
		there.must("")
		time.Sleep(time.Minute)
		there.must("")
		log.write("", "c\n")
		there.must("c\n")
	})
}

// A Follower that goes back in its file reads on in it, also if nobody else can open the file.
func TestSeekInRemovedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t)
		log.number("", 1, 0, "a\nb\nc\n")
		there := log.follow()
		read := func(want string) {
			t.Helper()
			if line, err := there.Next(); err != nil || string(line) != want {
				t.Fatalf("%q, %v, want %q", line, err, want)
			}
		}
		_, err := there.Next() // the header
		log.check(err)
		read("a\n")
		back := there.Position()
		read("b\n")
		log.check(os.Remove(log.path))
		there.Seek(back)
		there.must("b\nc\n")
		there.Seek(back)
		there.must("b\nc\n")
		log.number("", 2, int(there.Position().Offset), "d\n")
		there.must("d\n")
		there.Seek(back) // in a file that is closed by now
		there.loses("", ": bytes 71 to 75 of file 1 are missing")
	})
}

// A Follower does not skip a file that was removed before it had seen the file.
func TestRemovedUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t)
		log.number("", 1, 0, "a\n")
		slow := log.follow()
		slow.must("a\n")
		log.rotate(".1", "b\n")
		log.rotate(".2", "c\n")
		log.check(os.Remove(log.path + ".2"))
		took := slow.loses("", ": file 2 is missing")
		if took < 10*time.Second || took > 12*time.Second {
			t.Errorf("it took %s", took)
		}
	})
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
					log.number("", 1, 0, before)
					there := log.follow()
					there.must(before)
					position := there.Position()
					log.write("", torn)
					there.must("")
					log.truncate("", position.Offset)
					log.write("", text)
					there.must(text)
					back := log.follow()
					back.Seek(position)
					back.must(text)
				}
			})
		}
	}
	// A renamed file can lose its torn end, too.
	log := newLog(t)
	log.number("", 1, 0, "a\n")
	log.write("", "torn")
	there := log.follow()
	there.must("a\n")
	log.rename("", ".1")
	log.truncate(".1", there.Position().Offset)
	log.next(".1", "", "b\n")
	there.must("b\n")
}

// A line is returned when its line feed has been written, in whatever pieces.
func TestPieces(t *testing.T) {
	log := newLog(t)
	there := log.follow()
	there.must("")
	log.number("", 1, 0, "")
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
		back.Seek(position)
		back.must("")
	}
}

// From the position at each line of each file, exactly the rest is read.
func TestEachPosition(t *testing.T) {
	log := newLog(t)
	var all []string
	for number := range 4 {
		for i := range 30 {
			line := fmt.Sprintf("%d %d %s\n", number, i, strings.Repeat("x", i*i*(number%2)))
			all = append(all, line)
		}
		text := strings.Join(all[30*number:], "")
		if number == 0 {
			log.number("", 1, 0, text)
		} else {
			log.rotate(fmt.Sprint(".", number), text)
		}
	}
	there := log.follow()
	for i := 0; i < len(all); {
		position := there.Position()
		back := log.follow()
		back.Seek(position)
		back.must(strings.Join(all[i:], ""))
		line, err := there.Next()
		if _, isFirst := logfile.Parse(line); !isFirst {
			if string(line) != all[i] || err != nil {
				t.Fatalf("line %d: %q, %v, want %q", i, line, err, all[i])
			}
			i++
		}
		if there.At(position) || !there.At(there.Position()) {
			t.Errorf("line %d: it is not where it is", i)
		}
	}
}

// Every line is read without waiting, even while no file has the log's name.
func TestAtOnce(t *testing.T) {
	log := newLog(t)
	log.number(".3", 1, 0, "a\n")
	log.next(".3", ".2", "b\n")
	log.next(".2", ".1", "c\n")
	there := log.follow()
	got := ""
	for range 6 {
		line, err := there.Next()
		log.check(err)
		if _, isFirst := logfile.Parse(line); !isFirst {
			got += string(line)
		}
	}
	if line, err := there.Next(); got != "a\nb\nc\n" || line != nil || err != nil {
		t.Errorf("%q, %q, %v", got, line, err)
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
		{func() { log.number("", 1, 0, "") }, ""},
		{func() { log.write("", "to") }, ""},
		{func() { log.write("", "rn\na\n") }, "torn\na\n"},
		{func() { log.write("", "b") }, ""},
		{func() { log.rename("", ".1") }, ""},
		{func() { log.next(".1", "", "c") }, "b<torn>\n"},
		{func() { log.write("", "\nd\n") }, "c\nd\n"},
		{func() { log.rotate(".2", long) }, long},
		{func() { log.write("", strings.Repeat("x", 600_000)) }, ""},
		{func() { log.write("", "\n") }, strings.Repeat("x", 600_000) + "\n"},
	}
	var before follow.Position
	for i, step := range steps {
		step.change()
		there := log.follow()
		there.Seek(before)
		there.must(step.want)
		end, err := there.End()
		if err != nil || !there.At(end) {
			t.Errorf("step %d: %v, %v, and the end is elsewhere: %v", i, end, err, there.Position())
		}
		before = end
	}
}

// The end of an older file with as many bytes is not the end of the log.
func TestEndElsewhere(t *testing.T) {
	log := newLog(t)
	log.number("", 1, 0, strings.Repeat("a", 30)+"\n")
	log.rotate(".1", "b\n")
	there := log.follow()
	end, err := there.End()
	log.check(err)
	lines := 0
	for ; !there.At(end); lines++ {
		if line, err := there.Next(); line == nil || err != nil {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if lines != 4 {
		t.Errorf("the end is after %d lines", lines)
	}
}

// rotations are ways to rename FILE, for the rotation with this number. Each returns FILE's new
// suffix.
var rotations = map[string]func(log logFiles, number int) (suffix string){
	"dates": func(log logFiles, number int) string {
		log.rename("", fmt.Sprintf("-%08d", 20260000+number))
		return fmt.Sprintf("-%08d", 20260000+number)
	},
	"numbers": shift,
	"numbers, with create": func(log logFiles, number int) string {
		shift(log, number)
		log.write("", "")
		return ".1"
	},
}

// With a rotation every 2 ms no line is lost.
func TestManyRotations(t *testing.T) {
	count := 60
	if os.Getenv("MBUS_TORTURE") != "" {
		count = 600
	}
	for name, rotate := range rotations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := newLog(t)
			go func() {
				log.number("", 1, 0, "0\n")
				for i := range count {
					time.Sleep(2 * time.Millisecond)
					log.next(rotate(log, i), "", fmt.Sprintf("%d\n", i+1))
				}
				log.write("", "end\n")
			}()
			log.follow().expectNumbers(count + 1)
		})
	}
}

// expectNumbers reads lines up to the line end. They must be the numbers from 0 to count - 1.
func (r reader) expectNumbers(count int) {
	var got []string
	for deadline := time.Now().Add(patience); !slices.Contains(got, "end\n"); {
		line, err := r.Next()
		_, isFirst := logfile.Parse(line)
		switch {
		case err != nil || time.Now().After(deadline):
			r.t.Fatalf("after %d lines: %v", len(got), err)
		case line == nil:
			r.Wait(r.t.Context())
		case !isFirst:
			got = append(got, string(line))
		}
	}
	for i, line := range got[:len(got)-1] {
		if line != fmt.Sprintf("%d\n", i) {
			r.t.Fatalf("line %d is %q", i, line)
		}
	}
	if len(got) != count+1 {
		r.t.Errorf("read %d lines", len(got))
	}
}

// The last line of a renamed file is read, even if the new file's first line is written a
// moment later, while the Follower looks.
func TestLastLine(t *testing.T) {
	for range 300 {
		log := newLog(t)
		log.number(".1", 1, 0, "a\n")
		log.write("", "")
		there := log.follow()
		there.must("a\n")
		written := make(chan error)
		go func() {
			last, err := os.OpenFile(log.path+".1", os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = last.WriteString("last\n")
				last.Close()
				log.next(".1", "", "first\n")
			}
			written <- err
		}()
		got := ""
		for deadline := time.Now().Add(patience); !strings.HasSuffix(got, "first\n"); {
			line, err := there.Next()
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("after %q: %v", got, err)
			}
			if _, isFirst := logfile.Parse(line); !isFirst {
				got += string(line)
			}
		}
		if got != "last\nfirst\n" {
			t.Fatalf("read %q", got)
		}
		log.check(<-written)
		there.Close()
	}
}

// shift renames as logrotate does.
func shift(log logFiles, number int) (suffix string) {
	for i := number; i > 0; i-- {
		log.rename(fmt.Sprint(".", i), fmt.Sprint(".", i+1))
	}
	log.rename("", ".1")
	return ".1"
}

// A log that can't be one is an error.
func TestNoLog(t *testing.T) {
	log := newLog(t)
	log.check(os.Mkdir(log.path, 0o700))
	for _, path := range []string{log.path, log.path + "/", log.path + "/..", ".", ".."} {
		directory := logFiles{t, path}.follow()
		want := path + ": must be a regular file"
		if err := directory.expect(""); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	nowhere := logFiles{t, filepath.Join(log.path, "none", "log")}.follow()
	nowhere.Seek(follow.Position{Log: id, Number: 1, Offset: 1})
	nowhere.must("")
}
