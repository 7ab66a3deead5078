//go:build unix

package cmd_test

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// idsOf returns the ids in the output of a consumer with -format json.
func idsOf(t *testing.T, command *exec.Cmd) (ids []string) {
	t.Helper()
	status, stdout, stderr := finish(t, command)
	if status != 0 || stderr != "" {
		t.Fatalf("status %d: %s", status, stderr)
	}
	for line := range strings.Lines(stdout) {
		var object struct{ ID string }
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !strings.HasPrefix(line, `{"id":"`) {
			t.Errorf("id is not first in %s", line)
		}
		ids = append(ids, object.ID)
	}
	return ids
}

// A message has the same id for each consumer, after a rename, in a copy, and in a stream. It is
// made up as the contract says.
func TestConsumerIDs(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "mbus.log")
	broker := startStore(t, log, "-interval", "0")
	produce := func(data string) {
		if status, stderr := broker.produce("t", data); status != 0 {
			t.Fatalf("status %d: %s", status, stderr)
		}
	}
	produce("it's 1")
	produce("2\n")
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	bustest.Until(t, "a new file", func() bool { _, err := os.Stat(log); return err == nil })
	produce("3")
	broker.stop()

	var want, files []string
	for _, path := range []string{log + ".1", log} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, string(text))
		var id, number, offset = "", "", 0
		for line := range strings.Lines(string(text)) {
			if offset == 0 {
				words := strings.Fields(line) // DATE TIME Broker: file 1 of log ID
				number, id = words[4], strings.Trim(words[7], ":,")
			}
			if strings.Contains(line, " Received new message ") {
				sum := crc32.ChecksumIEEE([]byte(strings.TrimSuffix(line, "\n")))
				want = append(want, fmt.Sprintf("%s-%s-%d-%08x", id, number, offset, sum))
			}
			offset += len(line)
		}
	}
	check := func(what string, got []string, want []string) {
		t.Helper()
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	check("log", idsOf(t, consuming("-log", log, "-end", "-format", "json")), want)
	stream := consuming("-format", "json")
	stream.Stdin = strings.NewReader(files[0] + files[1])
	check("stream", idsOf(t, stream), want)
	stream = consuming("-format", "json")
	stream.Stdin = strings.NewReader(files[1])
	check("one file", idsOf(t, stream), want[2:])
	stream = consuming("-format", "json")
	stream.Stdin = strings.NewReader(files[1] + files[0])
	_, _, stderr := finish(t, stream)
	if !strings.HasPrefix(stderr, "consumer: standard input: after ") {
		t.Errorf("for files in the wrong order it said %q", stderr)
	}
	_, stdout, _ := consume(t, "-log", log, "-end", "--", "sh", "-c", `echo "$MBUS_ID"`)
	check("command", strings.Fields(stdout), want)
}

// MBUS_ATTEMPT counts the runs for a message in this process.
func TestConsumerAttempts(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1", "2")
	const command = `echo "$MBUS_ATTEMPT"; test "$MBUS_ATTEMPT" = 3`
	arguments := store.with("-end", "-retry", "1h", "--", "sh", "-c", command)
	status, stdout, _ := consume(t, arguments...)
	if status != 0 || stdout != strings.Repeat("1\n2\n3\n", 2) {
		t.Errorf("status %d, wrote %q", status, stdout)
	}
}

// With its id, a handler knows that it has seen a message.
func TestConsumerSeenOnce(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1", "2", "3")
	done := t.TempDir()
	const command = `[ -e "$0/$MBUS_ID" ] || { cat && touch "$0/$MBUS_ID"; }`
	delivers(t, "123", "-log", store.log, "-end", "--", "sh", "-c", command, done)
	store.add("4")
	delivers(t, "4", "-log", store.log, "-end", "--", "sh", "-c", command, done)
}
