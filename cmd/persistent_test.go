//go:build unix

package cmd_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// answering is a persistent command in sh. It appends the attempt and the data of each message to
// the file $0, runs the script that follows with $id and $data, and answers ok.
const answering = `while IFS= read -r line; do
	id=${line#*\"id\":\"} id=${id%%%%\"*}
	data=${line#*\"data\":\"} data=${data%%%%\"*}
	echo "$data ${line##*:}" >> "$0"
	%s
	echo "ok $id"
done
%s`

// persistently returns the arguments of a consumer with a persistent command: answering with
// script in each message, and at the end.
func persistently(done, script, end string, flags ...string) []string {
	return append(flags, "-persistent", "--", "sh", "-c", fmt.Sprintf(answering, script, end), done)
}

// A persistent command that does not answer ok has failed the message. The consumer's line says
// why, and the next start begins with that message.
func TestPersistentFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ script, want string }{
		"failed":              {`echo "failed $id too hot"; continue`, "failed: too hot"},
		"failed, no reason":   {`echo "failed $id"; continue`, "failed"},
		"a status":            {`exit 3`, "exit status 3"},
		"a signal":            {`kill -9 $$`, "signal: killed"},
		"status 0 when asked": {`exit 0`, ""},
		"no output":           {`exec >&-; exec sleep 1000`, "has closed its input or output"},
		"another line": {`echo hello`,
			`has answered "hello", must answer ok ID or failed ID`},
		"another id": {`echo ok 1`, `has answered "ok 1", must answer ok ID or failed ID`},
		"more than the id": {`echo "ok $id "`,
			`has answered "ok ID ", must answer ok ID or failed ID`},
		"an empty line": {`echo`, `has answered "", must answer ok ID or failed ID`},
		"two answers":   {`echo "ok $id"`, ""},
		"a long answer": {`printf "failed $id %5000s\n"; exec sleep 1000`,
			"has answered more than 4096 bytes"},
		"half an answer": {`printf "ok $id"; exit 0`,
			`has ended in the middle of an answer: "ok ID"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newLogAndState(t, "0", "bad", "2")
			done := store.state + ".done"
			script := fmt.Sprintf(`test $data != bad -o -e "$0.mended" || { %s; }`, test.script)
			arguments := store.with(persistently(done, script, "", "-end")...)
			status, stdout, stderr := consume(t, arguments...)
			stderr = strings.ReplaceAll(stderr, badID(t, store), "ID")
			want := "consumer: message ID on topic t: sh: " + test.want + "\n"
			switch name {
			case "status 0 when asked": // it was asked twice: in the first process and in a new one
				want = "consumer: message ID on topic t: " +
					"sh: has ended with status 0 without an answer\n"
			case "two answers": // which is seen when the next message is given, or a moment before
				want = "consumer: message ID on topic t: sh: has answered "
				stderr = "consumer: message ID" + stderr[strings.Index(stderr, " on topic"):]
				stderr = stderr[:min(len(stderr), len(want))]
			}
			if status != 1 || stdout != "" || stderr != want {
				t.Fatalf("status %d, wrote %q, said\n%swant\n%s", status, stdout, stderr, want)
			}
			if err := os.WriteFile(done+".mended", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			delivers(t, "", arguments...)
			words := strings.Fields(file(done).String())
			if words[0] != "0" || slices.Index(words[1:], "0") >= 0 || words[len(words)-2] != "2" {
				t.Errorf("handled %q", words)
			}
		})
	}
}

// badID returns the id of the message bad in the log.
func badID(t *testing.T, store logAndState) string {
	t.Helper()
	_, stdout, _ := consume(t, "-log", store.log, "-end", "-format", "json")
	for line := range strings.Lines(stdout) {
		if strings.Contains(line, `"bad"`) {
			return strings.Split(line, `"`)[3]
		}
	}
	t.Fatalf("no message bad in %s", stdout)
	return ""
}

// A persistent command that ends with status 0 between two messages fails none, and with -retry
// neither does one that crashes. Attempts are counted.
func TestPersistentRestarted(t *testing.T) {
	t.Parallel()
	messages := bustest.Numbers(0, 99)
	for name, test := range map[string]struct {
		script string
		flags  []string
		wants  string // the line of message 10
	}{
		"status 0": {`test $((data % 3)) = 0 && { echo "ok $id"; exit 0; }`, nil, "10 1}"},
		"status 1": {`test $data != 10 -o "${line##*:}" = '3}' || exit 1`,
			[]string{"-retry", "1m"}, "10 1}\n10 2}\n10 3}"},
		"no input": {`test $data != 10 -o "${line##*:}" = '2}' || exec 0<&-`,
			[]string{"-retry", "1m"}, "10 1}"},
	} {
		store := newLogAndState(t, messages...)
		done := store.state + ".done"
		flags := append([]string{"-end"}, test.flags...)
		status, stdout, stderr := consume(t,
			store.with(persistently(done, test.script, "", flags...)...)...)
		if status != 0 || stdout != "" || test.flags == nil && stderr != "" {
			t.Errorf("%s: status %d, wrote %q, said %s", name, status, stdout, stderr)
		}
		text := file(done).String()
		if !strings.Contains(text, "\n"+test.wants+"\n11 1}\n") {
			t.Errorf("%s: handled %q", name, text)
		}
		if again := handledTwice(t, handled(t, done, len(messages))); again > 2 {
			t.Errorf("%s: %d repeated", name, again)
		}
	}
}

// A child of a persistent command that holds its input and output delays nothing: neither the
// command's failure nor the end of the consumer.
func TestPersistentChild(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, bustest.Numbers(0, 5)...)
	done := store.state + ".done"
	script := `sleep 1000 0<&0 & test "${line##*:}" = '2}' || exit 1`
	start := time.Now()
	c := startConsumer(t,
		store.with(persistently(done, script, "", "-end", "-retry", "1m")...)...)
	// Standard error stays open in the child.
	bustest.Until(t, "the last message", func() bool {
		return strings.HasSuffix(file(done).String(), "5 2}\n")
	})
	bustest.Until(t, "its end", func() bool {
		return syscall.Kill(c.Command.Process.Pid, 0) != nil ||
			isZombie(c.Command.Process.Pid)
	})
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

// isZombie reports whether a process has ended and is not awaited yet. Where there is no /proc, it
// returns false.
func isZombie(pid int) bool {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Contains(string(text), ") Z ")
}

// At a stop the message in hand is answered, its position is saved, and the command sees the end of
// its input.
func TestPersistentStopped(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "0", "1", "2")
	done := store.state + ".done"
	script := `until test -e "$0.go"; do sleep 0.01; done`
	end := `cp "$(dirname "$0")/state" "$0.state"; echo end >> "$0"`
	arguments := store.with(persistently(done, script, end)...)
	c := startConsumer(t, arguments...)
	bustest.Until(t, "a message", func() bool { return file(done).String() == "0 1}\n" })
	c.Signal(syscall.SIGTERM)
	time.Sleep(300 * time.Millisecond) // a second signal within 200 ms is the same request
	if err := os.WriteFile(done+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status := c.Wait(); status != 0 || c.Stderr.String() != "" {
		t.Errorf("status %d: %s", status, c.Stderr)
	}
	if got := file(done).String(); got != "0 1}\nend\n" {
		t.Errorf("handled %q", got)
	}
	for _, state := range []string{done + ".state", store.state} { // at that end, and now
		delivers(t, "1\n2\n", "-log", store.log, "-state", state, "-end")
	}
}

// Persistent jobs lose no message, whether the consumer or its commands are killed, or it is
// stopped. Killed commands repeat the message in hand; a stop repeats none.
func TestPersistentInterrupted(t *testing.T) {
	t.Parallel()
	const jobs = 3
	for name, test := range map[string]struct {
		signal      syscall.Signal
		most        time.Duration // a position is saved within a second
		long, short int
	}{
		"killed":  {syscall.SIGKILL, 2 * time.Second, 50, 6},
		"stopped": {syscall.SIGTERM, 200 * time.Millisecond, 100, 10},
	} {
		t.Run(name, func(t *testing.T) {
			store := newLogAndState(t)
			load := startLoad(store, "x", 5, 5*time.Millisecond)
			done := store.state + ".done"
			arguments := persistently(done, "", "", "-jobs", fmt.Sprint(jobs))
			interruptions := bustest.LongOrShort(test.long, test.short)
			for range interruptions {
				interrupt(t, test.most, test.signal, store.with(arguments...)...)
			}
			count := load.end()
			delivers(t, "", store.with(append([]string{"-end"}, arguments...)...)...)
			again := handledTwice(t, handled(t, done, count))
			if test.signal == syscall.SIGTERM && again > 0 {
				t.Errorf("%d messages were repeated", again)
			}
			t.Logf("figure: a consumer of %d persistent jobs %s %d times: %d messages, "+
				"none missing, %d repeated", jobs, name, interruptions, count, again)
		})
	}
	t.Run("commands killed", func(t *testing.T) {
		kills := bustest.LongOrShort(100, 10)
		messages := bustest.Numbers(0, 20*kills)
		store := newLogAndState(t, messages...)
		done := store.state + ".done"
		script := `test $((data % 20)) != 7 -o "${line##*:}" != '1}' || kill -9 $$`
		status, stdout, stderr := consume(t, store.with(
			persistently(done, script, "", "-end", "-jobs", "3", "-retry", "1m")...)...)
		again := handledTwice(t, handled(t, done, len(messages)))
		if status != 0 || stdout != "" || again != kills || strings.Count(stderr, "\n") != 2*kills {
			t.Errorf("status %d, wrote %q, repeated %d, said %s", status, stdout, again, stderr)
		}
		t.Logf("figure: %d kills of 3 persistent commands: %d messages, none missing, %d repeated",
			kills, len(messages), again)
	})
}

// Messages of 16 MiB, and of all bytes, reach a persistent command as they were sent.
func TestPersistentData(t *testing.T) {
	t.Parallel()
	python := tool(t, "python3")
	var all strings.Builder
	for b := range 256 {
		all.WriteByte(byte(b))
	}
	large := strings.Repeat("x", bustest.LongOrShort(16<<20, 1<<20))
	messages := []string{"", all.String(), large, large[:len(large)-1] + "\xff", "\"\\\n\t\x00",
		"注\u2028🐢"}
	store := newLogAndState(t, messages...)
	const program = `import base64, hashlib, json, sys
for line in sys.stdin:
    m = json.loads(line)
    data = base64.b64decode(m["base64"]) if "base64" in m else m["data"].encode()
    open(sys.argv[1], "a").write(hashlib.sha256(data).hexdigest() + "\n")
    print("ok", m["id"], flush=True)`
	done := store.state + ".done"
	delivers(t, "", store.with("-end", "-persistent", "--", python, "-c", program, done)...)
	want := ""
	for _, message := range messages {
		want += fmt.Sprintf("%x\n", sha256.Sum256([]byte(message)))
	}
	if got := file(done).String(); got != want {
		t.Errorf("the data's hashes are\n%swant\n%s", got, want)
	}
}

// A command that answers before it has read a long line gets the next message when it has. One that
// floods its output instead of reading is ended.
func TestPersistentAnswersEarly(t *testing.T) {
	t.Parallel()
	python := tool(t, "python3")
	store := newLogAndState(t, strings.Repeat("0", 1<<20), strings.Repeat("1", 1<<20), "2")
	const early = `import os, sys
input = sys.stdin.buffer
while last := input.readline(60):
    os.write(1, b"ok " + last.split(b'"')[3] + b"\n")
    while not last.endswith(b"\n"):
        last = input.readline(1000)`
	delivers(t, "", store.with("-end", "-persistent", "--", python, "-c", early)...)
	store = newLogAndState(t, strings.Repeat("0", 1<<20))
	status, _, stderr := consume(t, store.with("-end", "-persistent", "--", "yes")...)
	if status != 1 || !strings.Contains(stderr, "has answered ") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// MBUS_JOB is in the environment of a persistent command, and its standard error goes through.
func TestPersistentEnvironment(t *testing.T) {
	store := newLogAndState(t, "0")
	done := store.state + ".done"
	status, _, stderr := consume(t,
		store.with(persistently(done, `echo "job $MBUS_JOB" >&2`, "", "-end")...)...)
	if status != 0 || stderr != "job 1\n" {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// A command that can't be run is retried, and then ends the consumer.
func TestPersistentCantRun(t *testing.T) {
	store := newLogAndState(t, "0")
	for script, want := range map[string]string{
		"exit 127": "exit status 127", "exec /dev/null": "exit status 126",
	} {
		for _, flags := range [][]string{nil, {"-persistent"}} {
			arguments := append(append(store.with("-end"), flags...), "--", "sh", "-c", script)
			status, _, stderr := consume(t, arguments...)
			if status != 1 || !strings.Contains(stderr, ": the command can't be run: sh: "+want) {
				t.Errorf("%q: status %d: %s", arguments, status, stderr)
			}
		}
	}
}
