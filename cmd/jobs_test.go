//go:build unix

package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// handled returns how often each of count messages is in the lines of the file at path. Each line
// starts with the number of its message. It fails the test if a line has no such number.
func handled(t *testing.T, path string, count int) (times []int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	times = make([]int, count)
	for line := range strings.Lines(string(text)) {
		word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		number, err := strconv.Atoi(word)
		if err != nil || number >= count || !strings.HasSuffix(line, "\n") {
			t.Fatalf("a line is %.100q, want one of %d messages", line, count)
		}
		times[number]++
	}
	return times
}

// handledTwice returns the sum of all repeats. It fails the test if a message is missing.
func handledTwice(t *testing.T, times []int) (again int) {
	t.Helper()
	for number, count := range times {
		if count == 0 {
			t.Errorf("message %d of %d is missing", number, len(times))
		}
		again += max(count-1, 0)
	}
	return again
}

// interrupt starts a consumer and sends it a signal at a random moment of the next most.
func interrupt(t *testing.T, most time.Duration, signal syscall.Signal, arguments ...string) {
	t.Helper()
	c := startConsumer(t, arguments...)
	pause(most)
	c.Signal(signal)
	status := c.Wait()
	tooEarly := status == -1 && c.Stdout.String() == "" // before it caught the signal
	if signal != syscall.SIGKILL && status != 0 && !tooEarly || c.Stderr.String() != "" {
		t.Errorf("status %d: %s", status, c.Stderr)
	}
}

// Jobs that are killed under load, while the log is rotated, lose no message. Each kill repeats at
// most those that ran. Jobs that are stopped repeat none.
func TestJobsInterrupted(t *testing.T) {
	t.Parallel()
	const jobs = 5
	const handle = `read -r number rest; sleep 0.0$((number % 7)); echo $number >> "$0"`
	for name, signal := range map[string]syscall.Signal{
		"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM,
	} {
		t.Run(name, func(t *testing.T) {
			store := newLogAndState(t)
			load := startLoad(store, "x", 2, 10*time.Millisecond)
			done := store.state + ".done"
			command := []string{"-jobs", strconv.Itoa(jobs), "--", "sh", "-c", handle, done}
			interruptions := bustest.LongOrShort(200, 12)
			for range interruptions {
				interrupt(t, 200*time.Millisecond, signal, store.with(command...)...)
			}
			count := load.end()
			rest := consuming(store.with(append([]string{"-end"}, command...)...)...)
			if output, err := rest.CombinedOutput(); err != nil || len(output) > 0 {
				t.Fatalf("the last run: %v: %s", err, output)
			}
			bustest.Until(t, "the last messages", func() bool { // of a consumer that was killed
				return !slices.Contains(handled(t, done, count), 0)
			})
			again := handledTwice(t, handled(t, done, count))
			if signal == syscall.SIGTERM && again > 0 || again > jobs*interruptions {
				t.Errorf("%d messages were repeated", again)
			}
			t.Logf("figure: %d jobs %s %d times: %d messages, none missing, %d repeated",
				jobs, name, interruptions, count, again)
		})
	}
}

// Up to -jobs commands run at once, and no more. Each MBUS_JOB is that of one at a time.
func TestJobsAtOnce(t *testing.T) {
	t.Parallel()
	for _, jobs := range []int{1, 3, 16} {
		store := newLogAndState(t, bustest.Numbers(1, 5*jobs)...)
		const script = `mkdir "$0/$MBUS_JOB" || echo "two in job $MBUS_JOB"
			until test -e "$0.full"; do # all are awaited once
				test $(ls "$0" | wc -l) -lt $1 || touch "$0.full"
				sleep 0.01
			done
			ls "$0" | wc -l
			rmdir "$0/$MBUS_JOB"`
		running, number := t.TempDir(), strconv.Itoa(jobs)
		status, stdout, stderr := consume(t, store.with("-end", "-jobs", number,
			"--", "sh", "-c", script, running, number)...)
		most := 0
		for line := range strings.Lines(stdout) {
			count, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Errorf("%d jobs: %s", jobs, line)
			}
			most = max(most, count)
		}
		if status != 0 || stderr != "" || most != jobs {
			t.Errorf("%d jobs: status %d, at most %d at once, said %s", jobs, status, most, stderr)
		}
	}
}

// A message that takes long does not hold up the 255 behind it. A kill then repeats it alone. At
// the next start with another -topic, the messages behind it are repeated, and none is missing.
func TestJobsBehindSlow(t *testing.T) {
	t.Parallel()
	const messages = 300
	const script = `read -r number; test $number != 0 -o -e "$0.go" || sleep 1000
		echo $number >> "$0"`
	for topic, wantAgain := range map[string]int{"t": 0, "other": 255} {
		store := newLogAndState(t, bustest.Numbers(0, messages-1)...)
		done := store.state + ".done"
		command := []string{"-topic", "t", "-jobs", "4", "--", "sh", "-c", script, done}
		c := startConsumer(t, store.with(command...)...)
		bustest.Until(t, "255 messages", func() bool {
			return strings.Count(file(done).String(), "\n") >= 255
		})
		time.Sleep(50 * time.Millisecond) // in which the 256th would come
		c.Signal(syscall.SIGKILL)
		syscall.Kill(-c.Command.Process.Pid, syscall.SIGKILL)
		c.Wait()
		got := handled(t, done, messages)
		if slices.Contains(got[1:256], 0) || got[0]+got[256] > 0 {
			t.Fatalf("behind a slow message these were handled: %v", got)
		}
		if err := os.WriteFile(done+".go", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		status, _, stderr := consume(t,
			store.with(append([]string{"-end", "-topic", topic}, command...)...)...)
		if status != 0 || (stderr != "") != (topic == "other") {
			t.Errorf("with -topic %s too: status %d: %s", topic, status, stderr)
		}
		if again := handledTwice(t, handled(t, done, messages)); again > wantAgain {
			t.Errorf("with -topic %s too, %d were repeated, want at most %d",
				topic, again, wantAgain)
		}
	}
}

// Without a command or without -jobs, a consumer passes over what jobs have done. -lag does not
// count it.
func TestJobsPassedOver(t *testing.T) {
	for name, arguments := range map[string][]string{
		"output": nil, "one job": {"--", "cat"}, "jobs": {"-jobs", "3", "--", "cat"},
	} {
		store := newLogAndState(t, "0\n", "1\n", "2\n", "3\n", "4\n")
		const script = `read -r number; test $number = 0 -o $number = 3 && exit 1; exit 0`
		status, _, stderr := consume(t, store.with("-jobs", "2", "--", "sh", "-c", script)...)
		if status != 1 || !strings.HasSuffix(stderr, "on topic t: sh: exit status 1\n") {
			t.Fatalf("status %d: %s", status, stderr)
		}
		note, err := os.ReadFile(store.state)
		if err != nil || !strings.Contains(string(note), " note done ") {
			t.Fatalf("the state has no note: %v:\n%s", err, note)
		}
		if name == "output" {
			arguments = []string{"-format", "raw"}
		}
		_, lag, _ := consume(t, store.with("-lag")...)
		_, stdout, _ := consume(t, store.with(append([]string{"-end"}, arguments...)...)...)
		lines := strings.Fields(stdout)
		want := fmt.Sprintf("_messages{state=%q} %d\n", store.state, len(lines))
		if !strings.Contains(lag, want) {
			t.Errorf("%s: -lag printed\n%s, and %q were delivered", name, lag, lines)
		}
		if slices.Sort(lines); len(lines) == 0 || lines[0] != "0" || slices.Contains(lines, "1") {
			t.Errorf("%s: delivered %q, want 0 and none that was done", name, lines)
		}
		delivers(t, "", store.with("-end")...)
	}
}

// In a log that was restored from a backup, other messages are in the place of those that jobs have
// done. None is passed over.
func TestJobsOfRestoredLog(t *testing.T) {
	store := newLogAndState(t, "1", "2")
	const script = `read -r number; test "$number" != 1`
	status, _, stderr := consume(t, store.with("-jobs", "2", "--", "sh", "-c", script)...)
	if status != 1 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	text := bustest.Read(t, store.log)
	restored := strings.Replace(text, "'2'", "'3'", 1)
	if err := os.WriteFile(store.log, []byte(restored), 0o600); err != nil || restored == text {
		t.Fatalf("%v: the log is %s", err, text)
	}
	_, lag, stderr := consume(t, store.with("-lag")...)
	if !strings.Contains(lag, "} 2\n") || stderr == "" {
		t.Errorf("-lag printed %s, and said %s", lag, stderr)
	}
	status, stdout, stderr := consume(t, store.with("-end")...)
	if status != 0 || stdout != "1\n3\n" || !strings.Contains(stderr, "may be delivered again") {
		t.Errorf("status %d, delivered %q, said %s", status, stdout, stderr)
	}
}

// After a message has failed for good, none is started. Those that run end, and are not repeated.
func TestJobsFailed(t *testing.T) {
	store := newLogAndState(t, bustest.Numbers(0, 50)...)
	done := store.state + ".done"
	const script = `read -r number
		case $number in
		0) test -e "$0.go" || exit 3;;
		1) until test -e "$0.go"; do sleep 0.01; done;;
		2) exit 0;;
		esac
		echo $number >> "$0"`
	arguments := store.with("-end", "-jobs", "2", "--", "sh", "-c", script, done)
	c := startConsumer(t, arguments...)
	time.Sleep(300 * time.Millisecond) // the failure is final after 100 ms
	if err := os.WriteFile(done+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	status := c.Wait()
	stderr := c.Stderr.String()
	if status != 1 || strings.Count(stderr, "\n") != 1 ||
		!strings.Contains(stderr, "exit status 3") {
		t.Errorf("status %d: %s", status, stderr)
	}
	if got := file(done).String(); got != "1\n" {
		t.Errorf("these were handled beside the failure: %q", got)
	}
	delivers(t, "", arguments...)
	os.WriteFile(done, []byte(file(done).String()+"2\n"), 0o600)
	if again := handledTwice(t, handled(t, done, 51)); again > 0 {
		t.Errorf("%d were repeated", again)
	}
}

// -count is the number of messages that are started.
func TestJobsCount(t *testing.T) {
	store := newLogAndState(t, bustest.Numbers(0, 9)...)
	done := filepath.Join(t.TempDir(), "done")
	for count := range 3 {
		delivers(t, "", store.with("-count", "3", "-jobs", "4", "--",
			"sh", "-c", `read -r number; echo $number >> "$0"`, done)...)
		if got := handled(t, done, 10); handledTwice(t, got[:3*(count+1)])+got[3*(count+1)] > 0 {
			t.Errorf("after %d runs: %v", count+1, got)
		}
	}
}

// Wrong uses of the flags for commands.
func TestJobsMisuse(t *testing.T) {
	const log, topic = "-log=x", "-topic=t"
	for _, test := range []struct {
		want      string
		arguments []string
	}{
		{`invalid value "0" for flag -jobs: must be a number of jobs, from 1 to 64`,
			[]string{"-jobs", "0", "--", "cat"}},
		{`invalid value "65" for flag -jobs: must be a number of jobs, from 1 to 64`,
			[]string{"-jobs", "65", "--", "cat"}},
		{`-jobs without a command: must be with one, after --`, []string{"-jobs", "2"}},
		{`-retry without a command: must be with one, after --`, []string{"-retry", "2s"}},
		{`-persistent without a command: must be with one, after --`, []string{"-persistent"}},
		{`-failed without a command: must be with one, after --`,
			[]string{topic, "-failed", "x"}},
		{`-failed x: must be with -topic, and another topic than it delivers`,
			[]string{"-failed", "x", "--", "cat"}},
		{`-failed t: must be with -topic, and another topic than it delivers`,
			[]string{topic, "-failed", "t", "--", "cat"}},
		{`-host or -port without -failed: must be with the topic to send to`,
			[]string{topic, "-port", "1", "--", "cat"}},
		{`-host or -port without -failed: must be with the topic to send to`,
			[]string{topic, "-host", "/x", "--", "cat"}},
		{`-port: must be without it, because -host is a path`,
			[]string{topic, "-failed", "f", "-host", "/x", "-port", "1", "--", "cat"}},
		{`-port "0": must be a number from 1 to 65535`,
			[]string{topic, "-failed", "f", "-port", "0", "--", "cat"}},
		{`-failed is not printable UTF-8 at byte 1`,
			[]string{topic, "-failed", "\n", "--", "cat"}},
		{`-seek delivers nothing: must be with -log and -state alone`,
			[]string{log, "-state=s", "-seek=end", "-jobs=2"}},
	} {
		line := fmt.Sprintf("%s (see consumer -h)", test.want)
		fails(t, 2, line, test.arguments...)
	}
}
