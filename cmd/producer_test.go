package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// silentInput returns a standard input from which nothing comes, and which does not end.
func silentInput(t *testing.T) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reader.Close()
		writer.Close()
	})
	return reader
}

// misused fails the test unless a producer with these arguments ends with status 2 and
// this line, without having read its standard input.
func misused(t *testing.T, line string, arguments ...string) {
	t.Helper()
	command := command("producer", arguments...)
	command.Stdin = silentInput(t)
	status, _, stderr := finish(t, command)
	if want := "producer: " + line + " (see producer -h)\n"; status != 2 || stderr != want {
		t.Errorf("%.40q: status %d: %s", arguments, status, stderr)
	}
}

// A topic that the broker would refuse is refused before anything is read.
func TestTopicIsCheckedFirst(t *testing.T) {
	for topic, line := range map[string]string{
		"t\n":                    "-topic is not printable UTF-8 at byte 2",
		"\xff":                   "-topic is not printable UTF-8 at byte 1",
		strings.Repeat("t", 300): "-topic is 300 bytes long, must be 1 to 255",
	} {
		misused(t, line, "-topic", topic)
		misused(t, line, "-topic", topic, "-lines")
	}
}

// What is more than a host is refused, with the flag that takes the rest.
func TestHostIsAlone(t *testing.T) {
	for _, host := range []string{"localhost:9990", "http://localhost", "[::1]"} {
		line := `-host "` + host + `": must be a name or an address alone, ` +
			`such as localhost or ::1; the port goes to -port`
		misused(t, line, "-topic", "t", "-host", host)
	}
}

// A standard input that is closed, or ends without a byte, is what a failed command
// leaves. It is no message, but an empty file is one.
func TestEmptyInput(t *testing.T) {
	broker := startBroker(t)
	closed := exec.Command("sh", "-c", `exec "$0" -port "$1" -topic t <&-`,
		filepath.Join(binaries, "producer"), broker.port)
	failed := exec.Command("sh", "-c", `false | "$0" -port "$1" -topic t`,
		filepath.Join(binaries, "producer"), broker.port)
	const want = "producer: not accepted: the input is empty: " +
		"to send an empty message, use -message ''\n"
	for name, command := range map[string]*exec.Cmd{
		"closed": closed, "a failed command": failed, "/dev/null": producing(broker.address(), nil),
	} {
		if status, _, stderr := finish(t, command); status != 1 || stderr != want {
			t.Errorf("%s: status %d: %s", name, status, stderr)
		}
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	status, _, stderr := finish(t, producing(broker.address(), file))
	if status != 0 || stderr != "" {
		t.Errorf("an empty file: status %d: %s", status, stderr)
	}
	if got := broker.drained(); !slices.Equal(got, []string{""}) {
		t.Errorf("in the log: %q", got)
	}
}

// An outage of more than five seconds is reported, and so is its end.
func TestOutage(t *testing.T) {
	t.Parallel()
	address := free(t)
	command := producing(address, nil, "-message", "x", "-retry", "1h")
	stderr := &record{}
	command.Stderr = stderr
	begin := time.Now()
	started(t, command)
	until(t, "the report", func() bool { return strings.HasSuffix(stderr.String(), "\n") })
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("it is reported after %s", took)
	}
	broker := startAt(t, address)
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
	want := "producer: " + address + ": not accepted: connect: connection refused; " +
		"retrying for up to 59m[0-9]+s\n" +
		"producer: " + address + ": accepted after [0-9]+s of retrying\n"
	if !regexp.MustCompile("^" + want + "$").MatchString(stderr.String()) {
		t.Errorf("it said %s", stderr)
	}
	if got := broker.drained(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("in the log: %q", got)
	}
}

// A producer that gives up says why, and nothing about an end of the outage.
func TestOutageWithoutEnd(t *testing.T) {
	t.Parallel()
	address := free(t)
	status, _, stderr := finish(t, producing(address, nil, "-message", "x", "-retry", "10s"))
	const why = "not accepted: connect: connection refused"
	want := "producer: " + address + ": " + why + "; retrying for up to [0-9]s\n" +
		"producer: " + address + ": " + why + "\n"
	if status != 1 || !regexp.MustCompile("^"+want+"$").MatchString(stderr) {
		t.Errorf("status %d: %s", status, stderr)
	}
}
