//go:build unix

package cmd_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// A misuse is one line on standard error and status 2. TestValidate of the package consumer has the
// other values that Validate refuses.
func TestConsumerMisuse(t *testing.T) {
	t.Parallel()
	misuse := func(line string, arguments ...string) {
		t.Helper()
		fails(t, 2, line+" (see consumer -h)", arguments...)
	}
	misuse(`-state without -log: must be with the log that the position is in`, "-state", "x")
	misuse(`-topic is 0 bytes long, must be 1 to 255`, "-topic", "a", "-topic", "")
	misuse(`invalid value "" for flag -log: must be a file`, "-log", "")
	misuse(`invalid value "" for flag -state: must be a file`, "-log", "x", "-state", "")
	misuse(`invalid value "" for flag -format: must be lines, nul, raw or json`, "-format", "")
	misuse(`invalid value "" for flag -from: must be start, end or a time`,
		"-log", "x", "-from", "")
	misuse(`-- without a command: must be with one after it`, "-log", "x", "--")
	misuse(`flag needs an argument: -topic`, "-topic", "--", "cat")
	misuse(`flag provided but not defined: -pport: use -port`, "-pport", "1")
	misuse(`unexpected argument "cat": a command comes after --, a log after -log`,
		"-log", "x", "cat")
	for _, count := range []string{"0", "x", "99999999999999999999"} {
		misuse(fmt.Sprintf(`invalid value %q for flag -count: must be a number of messages, `+
			`from 1 to %d`, count, math.MaxInt), "-count", count)
	}
	misuse(`invalid value "1" for flag -retry: must be a duration, such as 5s or 100ms`,
		"-retry", "1", "--", "cat")
}

// After an error in reading, delivering or saving, the consumer prints one line and ends with
// status 1.
func TestConsumerStatuses(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1", "2")
	delivers(t, "1\n2\n", "-log", store.log, "-end")
	delivers(t, "1\n", "-log", store.log, "-end", "-count", "1")
	delivers(t, "1\n2\n", "-log", store.log, "-count", "2")
	delivers(t, "1\n2\n", "-log", store.log, "-end", "-topic", "t", "-topic", "u")
	delivers(t, "", "-log", store.log, "-end", "-topic", "u")
	delivers(t, "", "-log", store.log, "-end", "-from", "end")
	delivers(t, "1\x002\x00", "-log", store.log, "-end", "-format", "nul")

	none := filepath.Join(t.TempDir(), "none")
	dangling := filepath.Join(t.TempDir(), "dangling")
	if err := os.Symlink(none, dangling); err != nil {
		t.Fatal(err)
	}
	const noFile = ": names no file, and there is no rotated file beside it: " +
		"with -end the log must exist"
	fails(t, 1, none+noFile, "-log", none, "-end")
	fails(t, 1, none+noFile, "-log", none, "-end", "-from", "end")
	fails(t, 1, dangling+noFile, "-log", dangling, "-end")
	if err := os.Rename(store.log, store.log+".1"); err != nil {
		t.Fatal(err)
	}
	delivers(t, "1\n2\n", "-log", store.log, "-end")
	fails(t, 1, filepath.Dir(none)+": must be a regular file", "-log", filepath.Dir(none))
	text := filepath.Join(t.TempDir(), "text")
	if err := os.Link(store.log+".1", text); err != nil {
		t.Fatal(err)
	}
	fails(t, 1, text+": is not a state of a consumer; it was left as it is",
		"-log", store.log, "-state", text)
	fails(t, 1, "open "+none+"/state: no such file or directory",
		"-log", store.log, "-state", none+"/state")

	delivers(t, "1\n2\n", store.with("-end")...)
	if err := os.WriteFile(store.log, []byte(inLog("t", "3")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range [][]string{nil, {"-from", "start"}, {"-from", "end"}} {
		status, stdout, stderr := consume(t, store.with(append(from, "-end")...)...)
		if status != 1 || stdout != "" || !strings.HasPrefix(stderr, "consumer: "+store.log+
			": the position is lost (") || !strings.HasSuffix(stderr,
			": it is another log now, and its first line does not say which: "+
				"-seek next, start or end must set the state first\n") {
			t.Errorf("%q: status %d, wrote %q, said %s", from, status, stdout, stderr)
		}
	}
}

// A consumer whose log is replaced by another ends with status 1.
func TestConsumerOfAnotherLog(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, slices.Repeat([]string{strings.Repeat("x", 1000)}, 1000)...)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte(inLog("t", "other")), 0o600); err != nil {
		t.Fatal(err)
	}
	script := `cat "$0" > "$1"; head -c 5; echo`
	const another = ": it is another log now, and its first line does not say which: " +
		"a consumer with -state can pass over it, by -seek next\n"
	status, stdout, stderr := consume(t, "-log", store.log, "-end", "-from", "start",
		"--", "sh", "-c", script, other, store.log)
	if status != 1 || strings.Contains(stdout, "other") || len(stdout) > 1000*len("xxxxx\n") ||
		!strings.HasSuffix(stderr, another) {
		t.Errorf("status %d, wrote %d bytes, said %s", status, len(stdout), stderr)
	}
}

// Without -log, the consumer reads standard input to its end.
func TestConsumerOfStandardInput(t *testing.T) {
	t.Parallel()
	command := consuming("-topic", "t")
	command.Stdin = strings.NewReader(inLog("t", "1") + inLog("u", "2") + "torn")
	status, stdout, stderr := finish(t, command)
	const torn = "consumer: skipped a line: it is torn: \"torn\"\n"
	if status != 0 || stdout != "1\n" || stderr != torn {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
	directory, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	command = consuming()
	command.Stdin = directory
	status, _, stderr = finish(t, command)
	if status != 1 || stderr != "consumer: read /dev/stdin: is a directory\n" {
		t.Errorf("status %d, said %s", status, stderr)
	}
	// A message is written at once, and a signal ends the wait for more.
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	command = consuming()
	command.Stdin = reader
	c := startConsumerCommand(t, command)
	reader.Close()
	io.WriteString(writer, inLog("t", "1")+inLog("t", "2")[:30])
	c.has("1\n")
	c.stop()
}

// A consumer waits for its log, follows it through rotation, and ends with status 0 after each
// signal to stop. The next consumer begins where it ended.
func TestConsumerFollows(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t)
	if err := os.Remove(store.log); err != nil {
		t.Fatal(err)
	}
	for i, signal := range stopSignals(t) {
		c := startConsumer(t, store.with()...)
		for part := range 3 {
			store.add(fmt.Sprint(i, part, "a"))
			rotated := fmt.Sprintf("%s-2026112%d", store.log, 3*i+part)
			if err := os.Rename(store.log, rotated); err != nil {
				t.Fatal(err)
			}
			store.add(fmt.Sprint(i, part, "b"))
		}
		want := ""
		for part := range 3 {
			want += fmt.Sprintf("%[1]d %[2]da\n%[1]d %[2]db\n", i, part)
		}
		c.has(want)
		c.Signal(signal)
		if status := c.Wait(); status != 0 || c.Stderr.String() != "" {
			t.Errorf("%v: status %d: %s", signal, status, c.Stderr)
		}
	}
	delivers(t, "", store.with("-end")...)
}

// holdsNothing begins a script. It closes the pipes, so that wait does not wait for the script.
const holdsNothing = "exec >/dev/null 2>&1; "

// A later signal ends a consumer that waits for its command.
func TestConsumerSecondSignal(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	mark := filepath.Join(t.TempDir(), "mark")
	script := holdsNothing + `: > "$0"; sleep 1000`
	c := startConsumer(t, store.with("--", "sh", "-c", script, mark)...)
	bustest.Until(t, "the command", func() bool { _, err := os.Stat(mark); return err == nil })
	c.Signal(syscall.SIGTERM)
	c.Signal(syscall.SIGTERM) // as timeout(1) does
	select {
	case <-c.Ended:
		t.Error("the first signals ended it")
	case <-time.After(500 * time.Millisecond):
	}
	c.Signal(syscall.SIGTERM)
	expectKilled(t, c.Process, syscall.SIGTERM)
}

// An appended line is delivered within 200 ms.
func TestConsumerLatency(t *testing.T) {
	store := newLogAndState(t, "start")
	c := startConsumer(t, "-log", store.log)
	c.has("start\n")
	want, best := "start\n", time.Hour // the best of ten: a busy machine delays some
	for i := range 10 {
		begin := time.Now()
		store.add(fmt.Sprint(i))
		want += fmt.Sprintln(i)
		c.has(want)
		best = min(best, time.Since(begin))
	}
	if best > 200*time.Millisecond {
		t.Errorf("a line took %s at best", best)
	}
	c.stop()
}

// One consumer at a time uses a state.
func TestTwoConsumers(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	first := startConsumer(t, store.with()...)
	first.has("1\n")
	fails(t, 1, store.state+": in use by another consumer", store.with()...)
	first.Signal(syscall.SIGKILL)
	first.Wait()
	second := startConsumer(t, store.with()...)
	store.add("2")
	bustest.Until(t, "the second", func() bool {
		return strings.HasSuffix(second.Stdout.String(), "2\n")
	})
	second.stop()
}

// A consumer whose reader closes the pipe ends with status 1 and prints nothing.
func TestConsumerToHead(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, strings.Repeat("x", 10_000))
	for range 100 {
		store.add(strings.Repeat("x", 10_000))
	}
	script := `{ "$0" -log "$1"; echo $? >&2; } | head -n 1`
	pipeline := exec.Command("sh", "-c", script, filepath.Join(binaries, "consumer"), store.log)
	status, stdout, stderr := finish(t, pipeline)
	if status != 0 || len(stdout) != 10_001 || stderr != "1\n" {
		t.Errorf("status %d, %d bytes, said %s", status, len(stdout), stderr)
	}
}

// A consumer refuses a closed standard output, in whose place the Go runtime opens the null
// device. With > /dev/null it discards the messages.
func TestConsumerWithoutOutput(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	inShell := func(redirection string, arguments ...string) (status int, stdout, stderr string) {
		binary := filepath.Join(binaries, "consumer")
		script := []string{"-c", `exec "$0" "$@" ` + redirection, binary}
		return finish(t, exec.Command("sh", append(script, arguments...)...))
	}
	const closed = "consumer: standard output is closed " +
		"(or is /dev/null, opened for reading too): must be open for writing\n"
	for _, redirection := range []string{">&-", "<&- >&-", "1<>/dev/null"} {
		status, _, stderr := inShell(redirection, store.with("-end")...)
		if status != 1 || stderr != closed {
			t.Errorf("%s: status %d, said %s", redirection, status, stderr)
		}
	}
	status, _, stderr := inShell(">&-", store.with("-count", "1", "--", "grep", "-q", "1")...)
	if status != 0 || stderr != "" {
		t.Errorf("with a command: status %d, said %s", status, stderr)
	}
	store.add("2")
	status, stdout, stderr := inShell("> /dev/null", store.with("-end")...)
	if status != 0 || stdout != "" || stderr != "" {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
	delivers(t, "", store.with("-end")...)
}

// A command reads each message whole from a file, and its topic and time from the environment.
func TestConsumerCommand(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "a", "", "it's\n\x00\xff", strings.Repeat("x", 300_000))
	check := `printf "%s %s %s|" "$MBUS_TOPIC" "$MBUS_TIME" "$1"; cat; echo "|"; echo error >&2`
	command := consuming(store.with("-end", "-topic", "t", "--", "sh", "-c", check, "sh", "--")...)
	temporary := t.TempDir()
	command.Env = append(os.Environ(), "MBUS_TOPIC=other", "TMPDIR="+temporary)
	status, stdout, stderr := finish(t, command)
	want := ""
	for _, data := range []string{"a", "", "it's\n\x00\xff", strings.Repeat("x", 300_000)} {
		want += "t 2024-06-02T10:39:55 --|" + data + "|\n"
	}
	if status != 0 || stdout != want || stderr != strings.Repeat("error\n", 4) {
		t.Errorf("status %d, wrote %.300q, want %.300q, said %s", status, stdout, want, stderr)
	}
	// It may leave its input unread, close it, or end a pipeline early.
	scripts := []string{
		"true", "exec 0<&-; true", "head -c 1 >/dev/null", "yes | head -n 1 >/dev/null",
	}
	for _, text := range scripts {
		delivers(t, "", "-log", store.log, "-end", "--", "sh", "-c", text)
	}
	// Commands do not inherit an ignored SIGPIPE.
	delivers(t, "141\n", "-log", store.log, "-end", "-count", "1", "--", "sh", "-c",
		`{ sh -c 'kill -PIPE $$'; echo $?; } 2>/dev/null`)
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %q, %v", left, err)
	}
}

// A command that fails ends the consumer. The next run begins with the same message.
func TestConsumerCommandFails(t *testing.T) {
	t.Parallel()
	const message = "message ID on topic t: "
	for _, test := range []struct {
		why     string
		command []string
	}{
		{"sh: exit status 3", []string{"sh", "-c", "exit 3"}},
		{"sh: signal: killed", []string{"sh", "-c", "kill -9 $$"}},
	} {
		store := newLogAndState(t, "1", "2", "3")
		delivers(t, "1", store.with("-count", "1", "--", "cat")...)
		fails(t, 1, message+test.why, append(store.with("--"), test.command...)...)
		fails(t, 1, message+test.why, append(store.with("-end", "--"), test.command...)...)
		delivers(t, "23", store.with("-end", "--", "cat")...)
	}
}

// A command that can't be run is reported before there is a message. If it vanishes later, its
// message is not delivered.
func TestConsumerWithoutCommand(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t)
	for name, why := range map[string]string{
		"no-such":   "executable file not found in $PATH",
		"/no/such":  "stat /no/such: no such file or directory",
		"/dev/null": "permission denied",
		"/":         "is a directory",
	} {
		line := fmt.Sprintf("the command can't be run: exec: %q: %s", name, why)
		fails(t, 1, line, store.with("-retry", "1h", "--", name)...)
	}
	store.add("1", "2")
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nrm \"$0\"; cat"), 0o700); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := consume(t, store.with("-end", "--", script)...)
	said := fmt.Sprintf("consumer: message ID on topic t: the command can't be run: "+
		"%s: fork/exec %[1]s: no such file or directory\n", script)
	if status != 1 || stdout != "1" || withoutIDs(stderr) != said {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
	delivers(t, "2", store.with("-end", "--", "cat")...)
}

// With -retry a command that fails is run again. The consumer reports the first failure and
// the success.
func TestConsumerRetry(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1", "2")
	tries := filepath.Join(t.TempDir(), "tries")
	const flaky = `echo >> "$0"; test $(wc -l < "$0") -gt 3 && cat`
	status, stdout, stderr := consume(t,
		store.with("-end", "-retry", "1h", "--", "sh", "-c", flaky, tries)...)
	const message = "consumer: message ID on topic t: "
	want := regexp.MustCompile("^" + message + "sh: exit status 1; retrying for up to 1h0m0s\n" +
		message + `delivered after [0-9.]+m?s of retrying` + "\n$")
	if status != 0 || stdout != "12" || !want.MatchString(withoutIDs(stderr)) {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
	store.add("3")
	begin := time.Now()
	status, _, stderr = consume(t, store.with("-retry", "500ms", "--", "false")...)
	failed := message + "false: exit status 1"
	said := failed + "; retrying for up to 500ms\n" + failed + "\n"
	took := time.Since(begin)
	if status != 1 || withoutIDs(stderr) != said || took < 500*time.Millisecond {
		t.Errorf("after %s status %d, said %s", took, status, stderr)
	}
	delivers(t, "3", store.with("-end", "--", "cat")...)
}

// A consumer that is to stop waits for its command. If the command fails, the next run begins
// with its message.
func TestConsumerStopsWithCommand(t *testing.T) {
	t.Parallel()
	const waits = `: > "$0"; while test -e "$0"; do sleep 0.01; done`
	for name, test := range map[string]struct {
		script string
		group  bool // whether the command gets the signal too, as from a terminal
		again  string
	}{
		"succeeds":            {waits, false, "2"},
		"fails":               {waits + "; exit 1", false, "12"},
		"hangs until it dies": {`: > "$0"; exec sleep 1000`, true, "12"},
		"ends by the signal": {`exec 2>/dev/null; trap "sleep 0.3; exit 0" TERM; ` + waits,
			true, "2"}, // its sleep is as the test's below
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, retry := range []string{"0s", "1h"} {
				store := newLogAndState(t, "1", "2")
				mark := filepath.Join(t.TempDir(), "mark")
				c := startConsumer(t,
					store.with("-retry", retry, "--", "sh", "-c", test.script, mark)...)
				bustest.Until(t, "the command", func() bool {
					_, err := os.Stat(mark)
					return err == nil
				})
				target := c.Command.Process.Pid
				if test.group {
					target = -target
				}
				if err := syscall.Kill(target, syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				// Until the consumer has the signal, a command that ends well is followed by the
				// next message's.
				time.Sleep(300 * time.Millisecond)
				os.Remove(mark)
				if status := c.Wait(); status != 0 || c.Stderr.String() != "" {
					t.Errorf("-retry %s: status %d: %s", retry, status, c.Stderr)
				}
				delivers(t, test.again, store.with("-end", "--", "cat")...)
			}
		})
	}
}

// The position is saved every second, even if the consumer never reaches the end of the log.
func TestConsumerSavesOnTheWay(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t)
	batch := slices.Repeat([]string{strings.Repeat("x", 1000)}, 1000)
	for range 20 {
		store.add(batch...)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	command := consuming(store.with()...)
	command.Stdout = writer
	c := startConsumerCommand(t, command)
	writer.Close()
	var first, now []byte
	piece := make([]byte, 100_000)
	bustest.Until(t, "another position", func() bool {
		// The log grows faster than it is read.
		if _, err := io.ReadFull(reader, piece); err != nil {
			t.Fatal(err)
		}
		store.add(batch[:100]...)
		now, _ = os.ReadFile(store.state)
		if first == nil && len(now) > 0 {
			first = now
		}
		time.Sleep(10 * time.Millisecond)
		return first != nil && !bytes.Equal(first, now)
	})
	c.Signal(syscall.SIGKILL)
}
