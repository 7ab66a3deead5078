//go:build unix

package cmd_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// producerFor returns the command of a producer that sends to the broker on address, on the topic
// t. It is not started.
func producerFor(address string, input io.Reader, arguments ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(address)
	arguments = append([]string{"-host", host, "-port", port, "-topic", "t"}, arguments...)
	command := command("producer", arguments...)
	command.Stdin = input
	return command
}

// startTyping starts a command, and returns a pipe to its standard input.
func startTyping(t *testing.T, command *exec.Cmd) (io.WriteCloser, *bustest.Process) {
	t.Helper()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return input, bustest.Start(t, command)
}

func TestProducerStatuses(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, "-max-payload", "1000")
	toBroker := func(arguments ...string) []string {
		return append([]string{"-port", broker.port, "-topic"}, arguments...)
	}
	expect(t, 0, "", "producer", toBroker("t", "-message", "text")...)
	expect(t, 0, "", "producer", toBroker("t", "-message", "")...)
	expect(t, 0, "", "producer", toBroker("t", "-message=-h", "-host", "localhost")...)
	expect(t, 1, "producer: "+broker.Address+
		": refused: the payload is too large: more than 1000 bytes (the broker's -max-payload)\n",
		"producer", toBroker("t", "-message", strings.Repeat("x", 1000))...)
	expect(t, 2, "producer: -topic is not printable UTF-8 at byte 2 (see producer -h)\n",
		"producer", toBroker("t\n", "-message", "x")...)

	broker.stop()
	expect(t, 1, "producer: "+broker.Address+": not accepted: connect: connection refused\n",
		"producer", toBroker("t", "-message", "x")...)

	// The kernel accepts connections and data for a listener that is never served.
	silent := bustest.Listen(t)
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	expect(t, 3, "producer: "+silent.Addr().String()+
		": outcome unknown, sending again may duplicate: timed out after 200ms\n",
		"producer", "-port", port, "-timeout", "200ms", "-topic", "t", "-message", "x")
}

// The reason in a reply is text from the network. The producer escapes it, so that it can't forge
// a line.
func TestHostileReason(t *testing.T) {
	t.Parallel()
	const refusal = "\x82\xa8Accepted\x00\xa5Error\xa8\n\x1b[31mno"
	listener := bustest.Listen(t)
	served := make(chan error, 1)
	go func() {
		connection, err := listener.Accept()
		if err == nil {
			defer connection.Close()
			if _, err = connection.Read(make([]byte, 4096)); err == nil {
				_, err = io.WriteString(connection, refusal)
			}
		}
		served <- err
	}()
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	expect(t, 1, "producer: "+address+`: refused: \n\x1b[31mno`+"\n",
		"producer", "-port", port, "-topic", "t", "-message", "x")
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// Without -message and -lines, all of standard input is one message.
func TestStandardInput(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, "-max-payload", "5000")
	tooLarge := "producer: " + broker.Address + ": refused: the payload is too large: " +
		"more than 5000 bytes (the broker's -max-payload)\n"
	for _, test := range []struct {
		input  string
		status int
		stderr string
	}{
		{"look\nma!\n", 0, ""},
		{"", 1, emptyInput},
		{strings.Repeat("x", 5000), 1, tooLarge},
	} {
		producer := producerFor(broker.Address, strings.NewReader(test.input))
		status, _, stderr := finish(t, producer)
		if status != test.status || stderr != test.stderr {
			t.Errorf("with the input %.20q the producer ended with status %d: %s",
				test.input, status, stderr)
		}
	}
	directory, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	const reason = "not accepted: read /dev/stdin: is a directory"
	status, _, stderr := finish(t, producerFor(broker.Address, directory))
	if status != 1 || stderr != "producer: "+reason+"\n" {
		t.Errorf("with a directory as input the producer ended with status %d: %s", status, stderr)
	}
	status, got := sendLines(t, broker.Address, directory)
	if status != 1 || got != (report{0, 1, 0, reason}) {
		t.Errorf("with -lines and a directory the producer ended with status %d and reported %+v",
			status, got)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, []string{`look\nma!\n`}) {
		t.Errorf("the messages in the log are %q, want the first input", got)
	}
}

// emptyInput is the error of a producer whose standard input is empty.
const emptyInput = "producer: not accepted: the input is empty: " +
	"to send an empty message, use -message ''\n"

// The producer refuses a standard input that is closed, or a pipe or device that has no byte: the
// command before it may have failed. It sends an empty file as an empty message.
func TestEmptyInput(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	closed := exec.Command("sh", "-c", `exec "$0" -port "$1" -topic t <&-`,
		filepath.Join(binaries, "producer"), broker.port)
	failed := exec.Command("sh", "-c", `false | "$0" -port "$1" -topic t`,
		filepath.Join(binaries, "producer"), broker.port)
	for name, command := range map[string]*exec.Cmd{
		"closed":           closed,
		"a failed command": failed,
		"/dev/null":        producerFor(broker.Address, nil),
	} {
		if status, _, stderr := finish(t, command); status != 1 || stderr != emptyInput {
			t.Errorf("with the input %s the producer ended with status %d: %s",
				name, status, stderr)
		}
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	status, _, stderr := finish(t, producerFor(broker.Address, file))
	if status != 0 || stderr != "" {
		t.Errorf("with an empty file the producer ended with status %d: %s", status, stderr)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, []string{""}) {
		t.Errorf("the messages in the log are %q, want one empty message", got)
	}
}

// With -message the producer does not read standard input, which belongs to the loop around it.
func TestLoop(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	const script = `while read -r line; do "$0" -port "$1" -topic t -message "$line" || exit; done`
	loop := exec.Command("sh", "-c", script, filepath.Join(binaries, "producer"), broker.port)
	loop.Stdin = strings.NewReader("1\n2\n3\n")
	if status, _, stderr := finish(t, loop); status != 0 || stderr != "" {
		t.Errorf("the loop ended with status %d: %s", status, stderr)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, bustest.Numbers(1, 3)) {
		t.Errorf("the messages in the log are %q, want 1, 2 and 3", got)
	}
}

// awaitDispatched waits until a broker has logged the dispatch of count messages. Each message is
// the only one of its payload.
func awaitDispatched(t *testing.T, broker *daemon, count int) {
	t.Helper()
	bustest.Until(t, fmt.Sprint("the dispatch of message ", count), func() bool {
		return strings.Count(broker.Log.String(), " new message dispatched ") == count
	})
}

// The producer reports an outage of more than five seconds, and its end.
func TestOutage(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	begin := time.Now()
	producer := bustest.Start(t, producerFor(address, nil, "-message", "x", "-retry", "1h"))
	bustest.Until(t, "the report", func() bool {
		return strings.HasSuffix(producer.Stderr.String(), "\n")
	})
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("the producer reported the outage after %s, want at least 5s", took)
	}
	broker := startAt(t, address)
	if status := producer.Wait(); status != 0 {
		t.Errorf("the producer ended with status %d", status)
	}
	want := "producer: " + address + ": not accepted: connect: connection refused; " +
		"retrying for up to 59m[0-9]+s\n" +
		"producer: " + address + ": accepted after [0-9]+s of retrying\n"
	if !regexp.MustCompile("^" + want + "$").MatchString(producer.Stderr.String()) {
		t.Errorf("standard error is %q, want a match of %q", producer.Stderr, want)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("the messages in the log are %q, want x", got)
	}
}

// A producer that gives up reports the error. It does not report an end of the outage.
func TestOutageWithoutEnd(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	status, _, stderr := finish(t, producerFor(address, nil, "-message", "x", "-retry", "10s"))
	const reason = "not accepted: connect: connection refused"
	want := "producer: " + address + ": " + reason + "; retrying for up to [0-9]s\n" +
		"producer: " + address + ": " + reason + "\n"
	if status != 1 || !regexp.MustCompile("^"+want+"$").MatchString(stderr) {
		t.Errorf("the producer ended with status %d and standard error %q, "+
			"want 1 and a match of %q", status, stderr, want)
	}
}
