package follow_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/follow"
)

// The files and the states of an earlier version. Each state has two saves.
const (
	earlierRotated = "2026/11/28 10:00:00 one\n2026/11/28 10:00:00 two\n2026/11/28 10:00:00 three\n"
	earlierFILE    = "2026/11/28 11:00:00 four\n2026/11/28 11:00:00 five\n"
)

var (
	// afterTwo is after the line two. Its first line is the last saved.
	afterTwo = earlierState(
		"mbus test save 3 offset 48 time 0 hash 5c2c6eea6722f8e9d0825df3051bde65 note note 1",
		"20d4581f",
		"mbus test save 2 offset 48 time 0 hash 5c2c6eea6722f8e9d0825df3051bde65 note note 1",
		"f67bebcc")

	// afterFour is after the line four. Its second line is the last saved.
	afterFour = earlierState(
		"mbus test save 3 offset 25 time 0 hash e494907789b7b4c7d38b63dceedf0084 note other",
		"c37d8ec3",
		"mbus test save 4 offset 25 time 0 hash e494907789b7b4c7d38b63dceedf0084 note note 3",
		"fab1e54b")
)

func earlierState(first, firstSum, second, secondSum string) string {
	return fmt.Sprintf("%-247s%s\n%-247s%s\n", first, firstSum, second, secondSum)
}

// earlierLog makes the log of an earlier version, and returns a reader at the position of state.
func earlierLog(t *testing.T, state string) (log logFiles, there reader) {
	log = newLog(t)
	log.write(".1", earlierRotated)
	log.write("", earlierFILE)
	there = log.follow()
	there.Seek(loadPosition(t, state))
	return log, there
}

func loadPosition(t *testing.T, text string) follow.Position {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	position, _, found := openState(t, path).Load()
	if !found {
		t.Fatal("there is no position")
	}
	return position
}

// A state of an earlier version is read on, in FILE and in a rotated file. FILE becomes file 1.
func TestEarlierVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, there := earlierLog(t, afterFour)
		there.must(earlierFILE[25:])
		back := log.follow()
		back.Seek(there.Position())
		back.must("")
		log.write("", "six\n")
		back.must("six\n")
		log.rotate(".2", "seven\n")
		there.must("six\nseven\n")
		back.must("seven\n")
		again := log.follow()
		again.Seek(loadPosition(t, afterFour))
		again.must(earlierFILE[25:] + "six\nseven\n")

		log, there = earlierLog(t, afterTwo)
		there.loses(earlierRotated[48:], ": no file of the log has the bytes before it")
		place, err := there.Recover(there.Position())
		log.check(err)
		there.Seek(place)
		there.must(earlierFILE)

		// While there is no FILE, and no later file, it waits.
		log, there = earlierLog(t, afterTwo)
		log.remove(".1")
		log.remove("")
		log.number(".1", 1, 0, "no\n")
		there.must("")
		time.Sleep(time.Minute)
		there.must("")

		// A file with as many bytes is not the one that the position was in.
		log, there = earlierLog(t, afterTwo)
		log.remove(".1")
		log.remove("")
		log.number("", 2, 48, "no\n")
		there.loses("", ": no file of the log has the bytes before it")
	})
}

// A state of an earlier version can be in a file with a number.
func TestEarlierVersionInNewFile(t *testing.T) {
	log := newLog(t)
	log.number("", 1, 0, "a\nb\n")
	there := log.follow()
	there.must("a\nb\n")
	position := there.Position()
	position.Log, position.Number = 0, 1
	// Before it has read a line, it is at the end of the log.
	quiet := log.follow()
	quiet.Seek(position)
	quiet.must("")
	if end, err := quiet.End(); err != nil || !quiet.At(end) {
		t.Errorf("it is at %v, the end is %v, %v", quiet.Position(), end, err)
	}
	log.rotate(".1", "c\n")
	back := log.follow()
	back.Seek(position)
	back.must("c\n")
	if back.Position().Number != 2 {
		t.Errorf("it is at %v", back.Position())
	}
}

// At the start of a log, files of an earlier version are left out and named, except the one that
// is file 1.
func TestEarlierVersionAtStart(t *testing.T) {
	log, there := earlierLog(t, afterFour)
	expect := func(want, report string) {
		t.Helper()
		there = log.follow()
		there.must(want)
		want = log.path + ": files of an earlier version are left out: " + report
		if len(*there.reports) != 1 || (*there.reports)[0] != want {
			t.Errorf("it reports %q, want %s", *there.reports, want)
		}
	}
	expect(earlierFILE, "mbus.log.1")
	log.write(".5", "no log\n")
	log.rotate(".2", "six\n")
	expect(earlierFILE+"six\n", "mbus.log.1")
	log.write(".2", "2026/11/28 12:00:00 more\n")
	expect("six\n", "mbus.log.1, mbus.log.2")
	// If file 1 is there, a file with as many bytes is not it.
	log = newLog(t)
	log.number("", 1, 0, "a\n")
	log.rotate(".1", "b\n")
	log.write(".2", fmt.Sprintf("%-*s\n", len(log.read(".1"))-1, "2026/11/28 12:00:00 no"))
	expect("a\nb\n", "mbus.log.2")
}

// offsetAndNote writes text to a state at path, and returns the offset and the note that it has.
func offsetAndNote(t *testing.T, path string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	state := openState(t, path)
	defer state.Close()
	position, note, _ := state.Load()
	return fmt.Sprint(position.Offset, " ", note)
}

// saveAt saves a position to the state at path, and returns the text of the file.
func saveAt(t *testing.T, path string, number int, note string) []byte {
	t.Helper()
	state := openState(t, path)
	defer state.Close()
	if err := state.Save(position(number), note); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) != 768 {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	return text
}

// The first save to a state of an earlier version leaves a whole line at each moment.
func TestEarlierStateIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for text, before := range map[string]string{afterTwo: "48 note 1", afterFour: "25 note 3"} {
		expect := func(what string, text []byte, want string) {
			t.Helper()
			if got := offsetAndNote(t, path, text); got != want {
				t.Errorf("%s: it has %s, want %s", what, got, want)
			}
		}
		expect("before", []byte(text), before)
		after := saveAt(t, path, 1, "new")
		middle := append(bytes.Clone(after[:256]), text[256:]...)
		expect("after the copy", middle, before)
		for length := range 257 {
			torn := append(bytes.Clone(middle[:length]), text[length:]...)
			expect(fmt.Sprint(length, " bytes of the copy"), torn, before)
		}
		for length := 385; length < 768; length++ {
			what := fmt.Sprint(length, " bytes of the line")
			expect(what, after[:length], before)
			zeros := make([]byte, 768-length)
			expect(what+", then zeros", append(bytes.Clone(after[:length]), zeros...), before)
		}
		expect("after the save", after, "1 new")
		long := strings.Repeat("x", 128)
		expect("after the next save", saveAt(t, path, 2, long), "2 "+long)
	}
}
