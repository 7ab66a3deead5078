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
	"syscall"
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
func awaitDispatched(t *testing.T, broker *brokerProcess, count int) {
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

// expectPing fails the test unless a producer that pings the port of address ends with status,
// and with exactly stderr on standard error.
func expectPing(t *testing.T, address string, status int, stderr string, flags ...string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	expect(t, status, stderr, "producer", append([]string{"-ping", "-port", port}, flags...)...)
}

// An idle broker answers a ping, and does not log it.
func TestPing(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	before := bustest.Lines(t, broker.Log.String())
	expectPing(t, broker.Address, 0, "")
	broker.Accept(bustest.Payload("t", "1"), 1)
	broker.Expect("new message dispatched on topic t")
	got := bustest.Lines(t, broker.Log.String())
	want := append(before, "creating topic t", "new message dispatched on topic t")
	if !slices.Equal(got[:min(len(got), len(want))], want) {
		t.Errorf("the log is\n%s\nwant no line of a ping", broker.Log)
	}
	broker.stop()
	gone := "producer: " + broker.Address + ": connect: connection refused\n"
	expectPing(t, broker.Address, 1, gone)
	expectPing(t, broker.Address, 1, gone, "-retry", "100ms")
}

// A broker answers a ping even if its queue is full and nobody reads its log pipe.
func TestPingFull(t *testing.T) {
	t.Parallel()
	broker, _ := startInPipe(t, "-interval", "10ms", "-timeout", "100ms", "-max-queued", "100000")
	broker.fill(bustest.Payload("t", strings.Repeat("x", 1000)))
	expectPing(t, broker.Address, 0, "")
}

// A stopping broker does not answer a ping, because it will not accept messages. It does not
// answer while it serves another client, nor while it writes its log.
func TestPingStopping(t *testing.T) {
	t.Parallel()
	broker, log := startInPipe(t, "-interval", "10ms", "-timeout", "1h")
	for range 100 { // more bytes than the pipe holds
		broker.Accept(bustest.Payload("t", strings.Repeat("x", 1000)), 1)
	}
	stalled := broker.Dial()
	stalled.Put("\x82")
	bustest.Until(t, "the stalled client's turn", broker.isBusy)
	broker.Signal(syscall.SIGTERM)
	expectPing(t, broker.Address, 1, "producer: "+broker.Address+": timed out after 300ms\n",
		"-timeout", "300ms")
	stalled.Close()
	bustest.Until(t, "the end of serving", func() bool {
		status, _, stderr := run(t, "producer", "-ping", "-port", broker.port, "-timeout", "300ms")
		if status != 1 {
			t.Errorf("the ping ended with status %d, want 1: %s", status, stderr)
		}
		return strings.HasSuffix(stderr, ": connect: connection refused\n")
	})
	log.readRest(t, 4096, 0)
	if status := broker.Wait(); status != 0 {
		t.Errorf("the broker ended with status %d, want 0", status)
	}
}

// With -retry, a ping waits until the broker is up, even if another server had the port before.
func TestPingRetry(t *testing.T) {
	t.Parallel()
	listener := bustest.Listen(t)
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	ping := bustest.Start(t, command("producer", "-ping", "-port", port, "-retry", "1h"))
	connection, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(connection, "HTTP/1.1 400 Bad Request\r\n\r\n")
	connection.Close()
	listener.Close()
	broker := startAt(t, address)
	if status := ping.Wait(); status != 0 {
		t.Errorf("the ping ended with status %d: %s", status, ping.Stderr)
	}
	broker.stop()
}

// A ping ends with status 1 and one line if the server does not answer or is no broker. It never
// ends with status 3, because it sends no message.
func TestPingStrangers(t *testing.T) {
	t.Parallel()
	mute := bustest.Listen(t) // the kernel accepts connections for it
	expectPing(t, mute.Addr().String(), 1,
		"producer: "+mute.Addr().String()+": timed out after 200ms\n", "-timeout", "200ms")
	const foreign = "the answer is not a reply of mbus, is -port right? "
	for answer, reason := range map[string]string{
		"": "the connection ended without a reply",
		"HTTP/1.1 400 Bad Request\r\n\r\n": foreign +
			"the reply is an integer, must be a map of Accepted and Error",
		"220 mail.example ESMTP\r\n": foreign +
			"the reply is an integer, must be a map of Accepted and Error",
		"\x82\xa8Accepted\x05\xa5Error\xa0":    "the broker answers 5 accepted of 0",
		"\x82\xa8Accepted\x00\xa5Error\xa2no":  "refused: no",
		"\x82\xa8Accepted\x05\xa5Error\xa2\n!": `refused: \n!`,
	} {
		listener := bustest.Listen(t)
		answered := make(chan error, 1)
		go func() {
			connection, err := listener.Accept()
			if err == nil {
				io.Copy(io.Discard, connection)
				_, err = io.WriteString(connection, answer)
				connection.Close()
			}
			answered <- err
		}()
		address := listener.Addr().String()
		expectPing(t, address, 1, "producer: "+address+": "+reason+"\n")
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

// A ping sends no message, so -ping excludes the flags that are about messages.
func TestPingMisuse(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{{"-topic", "t"}, {"-message", ""}, {"-lines"}} {
		expectMisuse(t, "-ping: must be without -topic, -message, -lines and -at-least-once",
			append(flags, "-ping")...)
	}
}
