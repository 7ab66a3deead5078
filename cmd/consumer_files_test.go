//go:build unix

package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/follow"
)

// numbered returns count messages of a file.
func numbered(name string, count int) (messages []string) {
	for i := range count {
		messages = append(messages, fmt.Sprint(name, i))
	}
	return messages
}

// rotate renames the log, and begins its next file.
func (s logAndState) rotate(suffix string, messages ...string) {
	s.t.Helper()
	if err := os.Rename(s.log, s.log+suffix); err != nil {
		s.t.Fatal(err)
	}
	s.add(messages...)
}

// shell runs a script in the directory of the log.
func (s logAndState) shell(script string) {
	s.t.Helper()
	command := exec.Command("sh", "-ec", script)
	command.Dir = filepath.Dir(s.log)
	if output, err := command.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v: %s", script, err, output)
	}
}

// newThreeFiles makes a log of three files. The state is after 10 of the 30 messages of the first,
// in the middle of it.
func newThreeFiles(t *testing.T) logAndState {
	t.Helper()
	store := newLogAndState(t, numbered("a", 30)...)
	delivers(t, lines(numbered("a", 10)), store.with("-count", "10")...)
	store.rotate(".2", numbered("b", 30)...)
	store.rotate(".1", numbered("c", 30)...)
	return store
}

func lines(messages []string) string {
	return strings.Join(messages, "\n") + "\n"
}

// What people do to the files of a log costs no message and repeats none: for a consumer that was
// away, and for one that runs meanwhile.
func TestConsumerOfHandledFiles(t *testing.T) {
	all := slices.Concat(numbered("a", 30), numbered("b", 30), numbered("c", 30))
	for name, script := range map[string]string{
		"nothing":                      "",
		"copies with new times":        "mkdir x; cp mbus.log* x/; rm mbus.log*; mv x/* .",
		"a clock that was corrected":   "touch -t 203011290000 mbus.log.1",
		"a file dated 1969":            "touch -t 196907200000 mbus.log.1",
		"a file that was uncompressed": "gzip mbus.log.2; gzip -dc mbus.log.2.gz > mbus.log.2",
		"a second name":                "ln mbus.log.1 mbus.log.2026-11-28",
		"a link":                       "ln -s mbus.log.1 mbus.log.2026-11-28",
		"a backup, then a rotation":    "cp mbus.log mbus.log-20261129; mv mbus.log mbus.log.0",
		"two brokers": "sed 's/file 2 of log [0-9a-f]*/file 2 of log 00000000000000bb/' " +
			"mbus.log.1 > mbus.log-2",
		"a name that is a link": "mkdir x; mv mbus.log* x/; ln -s x/mbus.log mbus.log",
	} {
		t.Run(name, func(t *testing.T) {
			store := newThreeFiles(t)
			running := startConsumer(t, "-log", store.log)
			running.has(lines(all))
			store.shell(script)
			store.add("last")
			running.has(lines(all) + "last\n")
			running.stop()
			delivers(t, lines(append(all[10:], "last")), store.with("-end")...)
			delivers(t, lines(append(all, "last")), "-log", store.log, "-end")
		})
	}
}

// loses fails the test unless a consumer delivers want, and ends because its position is lost.
func (s logAndState) loses(want, why string, arguments ...string) {
	s.t.Helper()
	status, stdout, stderr := consume(s.t, s.with(arguments...)...)
	if status != 1 || stdout != want || strings.Count(stderr, "\n") != 1 ||
		!strings.HasPrefix(stderr, "consumer: "+s.log+": the position is lost (offset ") ||
		!strings.HasSuffix(stderr,
			why+": -seek next, start or end must set the state first\n") {
		s.t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
}

// An edited log ends a consumer that runs, and one that was away. -from does not answer that.
func TestConsumerOfEditedLog(t *testing.T) {
	t.Parallel() // it waits for what is missing
	store := newLogAndState(t, numbered("a", 30)...)
	running := startConsumer(t, store.with()...)
	running.has(lines(numbered("a", 30)))
	// With the apostrophes, because the log's id may have a5 too.
	store.shell(`sed "s/'a5'/'A5'/" mbus.log > x; mv x mbus.log`)
	status := running.Wait()
	if got := running.Stdout.String(); status != 1 || got != lines(numbered("a", 30)) {
		t.Errorf("status %d, wrote %q", status, got)
	}
	const why = ": file 1 was changed, and does not have it"
	store.loses("", why, "-from", "start")
	store.seeks("next", "is set to offset 0 of file 1 of log ")
	delivers(t, strings.Replace(lines(numbered("a", 30)), "a5", "A5", 1), store.with("-end")...)
}

// seeks fails the test unless a consumer with -seek says so.
func (s logAndState) seeks(place, want string) {
	s.t.Helper()
	status, stdout, stderr := consume(s.t, s.with("-seek", place)...)
	want = s.state + ": " + want
	if status != 0 || !strings.HasPrefix(stdout, want) || strings.Count(stdout, "\n") != 1 ||
		stderr != "" {
		s.t.Errorf("-seek %s: status %d, wrote %q, want %s, said %s",
			place, status, stdout, want, stderr)
	}
}

// A file in the middle that is missing is waited for, and then it is a loss. -seek next goes on
// after it.
func TestConsumerOfMissingFile(t *testing.T) {
	t.Parallel() // it waits for what is missing
	store := newThreeFiles(t)
	store.shell("mv mbus.log.1 away")
	waiting := startConsumer(t, store.with()...)
	waiting.has(lines(numbered("a", 30)[10:]))
	time.Sleep(time.Second) // it waits
	store.shell("mv away mbus.log.1")
	want := slices.Concat(numbered("a", 30)[10:], numbered("b", 30), numbered("c", 30))
	waiting.has(lines(want))
	waiting.stop()

	store = newThreeFiles(t)
	store.shell("rm mbus.log.1")
	store.loses(lines(numbered("a", 30)[10:]), ": file 2 is missing", "-end")
	store.loses("", ": file 2 is missing", "-end")
	status, _, stderr := consume(t, "-log", store.log, "-end")
	const hint = ": file 2 is missing: a consumer with -state can pass over it, by -seek next\n"
	if status != 1 || !strings.HasSuffix(stderr, hint) {
		t.Errorf("without a state: status %d, said %s", status, stderr)
	}
	store.seeks("next", "is set to offset 0 of file 3 of log ")
	store.seeks("next", "is not lost, and stays at offset 0 of file 3 of log ")
	delivers(t, lines(numbered("c", 30)), store.with("-end")...)
}

// A log that was emptied goes on. A consumer that had not read all of it says so.
func TestConsumerOfEmptiedLog(t *testing.T) {
	t.Parallel() // it waits for what is missing
	store := newLogAndState(t, numbered("a", 30)...)
	other := logAndState{t, store.log, store.state + "2"}
	running := startConsumer(t, store.with()...)
	running.has(lines(numbered("a", 30)))
	delivers(t, "a0\n", other.with("-count", "1")...)
	store.shell("cp mbus.log mbus.log.1; : > mbus.log")
	store.add("b")
	running.has(lines(append(numbered("a", 30), "b")))
	running.stop()
	store.shell("rm mbus.log.1")
	other.loses("", " of file 1 are missing", "-end")
}

// -seek sets the state to the start or the end of the log. Without a log it makes the state.
func TestConsumerSeek(t *testing.T) {
	store := newThreeFiles(t)
	store.seeks("next", "is not lost, and stays at offset ")
	store.seeks("end", "is set to offset ")
	delivers(t, "", store.with("-end")...)
	store.add("last")
	delivers(t, "last\n", store.with("-end")...)
	store.seeks("start", "is set to offset 0 of file 1 of log ")
	delivers(t, "a0\n", store.with("-count", "1")...)

	running := startConsumer(t, store.with()...)
	bustest.Until(t, "the last message", func() bool {
		return strings.HasSuffix(running.Stdout.String(), "last\n")
	})
	fails(t, 1, store.state+": in use by another consumer", store.with("-seek", "end")...)
	running.stop()
	delivers(t, "", store.with("-end")...)

	none := filepath.Join(t.TempDir(), "none")
	prepared := logAndState{t, none, none + ".state"}
	fails(t, 1, prepared.state+": has no position yet: -seek start or end sets one",
		prepared.with("-seek", "next")...)
	prepared.seeks("end", "is set to the start of the log")
	prepared.add("1")
	delivers(t, "1\n", prepared.with("-end")...)

	const needs, alone = "-seek needs -log and -state: the log and the state to set",
		"-seek delivers nothing: must be with -log and -state alone"
	for _, test := range []struct {
		line      string
		arguments []string
	}{
		{needs, []string{"-seek", "end"}}, {needs, []string{"-seek", "end", "-log", "x"}},
		{alone, store.with("-seek", "end", "-topic", "t")},
		{alone, store.with("-seek", "end", "-end")},
		{alone, store.with("-seek", "end", "-from", "start")},
		{alone, store.with("-seek", "end", "-count", "1")},
		{alone, store.with("-seek", "end", "-format", "raw")},
		{alone, store.with("-seek", "end", "--", "cat")},
		{`-seek "now": must be start, end, next or a time, such as '2026/11/24 10:00:00' ` +
			`or 2026-11-24T10:00:00`, store.with("-seek", "now")},
		{`invalid value "" for flag -seek: must be start, end, next or a time`,
			store.with("-seek", "")},
	} {
		fails(t, 2, test.line+" (see consumer -h)", test.arguments...)
	}
}

// -seek drops the note of the state.
func TestConsumerSeekDropsNote(t *testing.T) {
	store := newLogAndState(t, "1")
	state, err := follow.OpenState(store.state, "consumer")
	if err == nil {
		err = state.Save(follow.Position{}, "a note")
		state.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	store.seeks("end", "is set to offset ")
	if state, err = follow.OpenState(store.state, "consumer"); err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if position, note, found := state.Load(); note != "" || !found || position.Offset == 0 {
		t.Errorf("the state has %v, %q", position, note)
	}
}
