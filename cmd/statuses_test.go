//go:build unix

package cmd_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// producerFor returns a producer for the broker on address and the topic t, not
// started.
func producerFor(address string, input io.Reader, arguments ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(address)
	arguments = append([]string{"-host", host, "-port", port, "-topic", "t"}, arguments...)
	command := command("producer", arguments...)
	command.Stdin = input
	return command
}

// start starts a command, which is killed when the test ends. What the command writes
// to standard error may be read once it has ended.
func start(t *testing.T, command *exec.Cmd) (stderr *bytes.Buffer) {
	t.Helper()
	stderr = &bytes.Buffer{}
	if command.Stderr == nil {
		command.Stderr = stderr
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { command.Process.Kill() })
	return stderr
}

// startTyping is start for a command whose standard input the test writes.
func startTyping(t *testing.T, command *exec.Cmd) (input io.WriteCloser, stderr *bytes.Buffer) {
	t.Helper()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return input, start(t, command)
}

func TestProducerStatuses(t *testing.T) {
	broker := startBroker(t, "-max-payload", "1000")
	toBroker := func(arguments ...string) []string {
		return append([]string{"-port", broker.port, "-topic"}, arguments...)
	}
	expect(t, 0, "", "producer", toBroker("t", "-message", "text")...)
	expect(t, 0, "", "producer", toBroker("t", "-message", "")...)
	expect(t, 0, "", "producer", toBroker("t", "-message=-h", "-host", "localhost")...)
	expect(t, 1, "producer: "+broker.Address+
		": refused: the payload is too large: more than 1000 bytes (-max-payload)\n",
		"producer", toBroker("t", "-message", strings.Repeat("x", 1000))...)
	expect(t, 1, "producer: "+broker.Address+
		": refused: message 1: entry \"Topic\" is not printable UTF-8 at byte 2\n",
		"producer", toBroker("t\n", "-message", "x")...)

	broker.stop()
	expect(t, 1, "producer: "+broker.Address+": not accepted: connect: connection refused\n",
		"producer", toBroker("t", "-message", "x")...)

	// The kernel takes everything for a listener that never accepts.
	silent := bustest.Listen(t)
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	expect(t, 3, "producer: "+silent.Addr().String()+
		": outcome unknown, sending again may duplicate: no end within 200ms\n",
		"producer", "-port", port, "-timeout", "200ms", "-topic", "t", "-message", "x")
}

// A reason is text from the network: it stays on its line.
func TestHostileReason(t *testing.T) {
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
	broker := startBroker(t, "-max-payload", "5000")
	for _, test := range []struct {
		input  string
		status int
		stderr string
	}{
		{"look\nma!\n", 0, ""},
		{"", 0, ""},
		{strings.Repeat("x", 5000), 1, "producer: " + broker.Address +
			": refused: the payload is too large: more than 5000 bytes (-max-payload)\n"},
	} {
		producer := producerFor(broker.Address, strings.NewReader(test.input))
		status, _, stderr := finish(t, producer)
		if status != test.status || stderr != test.stderr {
			t.Errorf("%.20q: status %d: %s", test.input, status, stderr)
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
		t.Errorf("a directory: status %d: %s", status, stderr)
	}
	status, got := sendLines(t, broker.Address, directory)
	if status != 1 || got != (report{0, 1, 0, reason}) {
		t.Errorf("the lines of a directory: status %d: %+v", status, got)
	}
	if got := broker.drained(); !slices.Equal(got, []string{`look\nma!\n`, ""}) {
		t.Errorf("in the log: %q", got)
	}
}

// With -message, standard input is left to the loop around the producer.
func TestLoop(t *testing.T) {
	broker := startBroker(t)
	const script = `while read -r line; do "$0" -port "$1" -topic t -message "$line" || exit; done`
	loop := exec.Command("sh", "-c", script, filepath.Join(binaries, "producer"), broker.port)
	loop.Stdin = strings.NewReader("1\n2\n3\n")
	if status, _, stderr := finish(t, loop); status != 0 || stderr != "" {
		t.Errorf("status %d: %s", status, stderr)
	}
	if got := broker.drained(); !slices.Equal(got, bustest.Numbers(1, 3)) {
		t.Errorf("in the log: %q", got)
	}
}

// A signal lets the payload in flight end, and the line about what was accepted is
// true.
func TestInterrupt(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		broker := startInFile(t, filepath.Join(t.TempDir(), "log"))
		producer := producerFor(broker.Address, &bustest.Endless{}, "-lines")
		stderr := start(t, producer)
		bustest.Until(t, "a message", func() bool {
			return strings.Contains(broker.Log.String(), "dispatched")
		})
		producer.Process.Signal(signal)
		producer.Wait()
		got := parseReport(t, stderr.String())
		reason := "not accepted: stopped by signal: " + signal.String()
		want := report{got.accepted, got.accepted + 1, 0, reason}
		if producer.ProcessState.ExitCode() != 1 || got != want {
			t.Errorf("%v: %+v, want %+v", producer.ProcessState, got, want)
		}
		logged := broker.drained()
		if !slices.Equal(logged, bustest.Numbers(1, got.accepted)) {
			t.Errorf("%d messages were accepted, %d are in the log, or in another order",
				got.accepted, len(logged))
		}
	}
}

// endedBy fails the test unless a command was ended by a signal.
func endedBy(t *testing.T, command *exec.Cmd, signal syscall.Signal) {
	t.Helper()
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != signal {
		t.Errorf("%q: %v", command.Args, command.ProcessState)
	}
}

// A second signal ends a producer that waits for a reply.
func TestSecondInterrupt(t *testing.T) {
	silent := bustest.Listen(t)
	for signal, arguments := range map[syscall.Signal][]string{
		syscall.SIGINT:  {"-lines"},
		syscall.SIGTERM: {"-message", "x"},
	} {
		producer := producerFor(silent.Addr().String(), strings.NewReader("1\n"), arguments...)
		start(t, producer)
		ended := make(chan struct{})
		go func() {
			producer.Wait()
			close(ended)
		}()
		connection, err := silent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		producer.Process.Signal(signal)
		time.Sleep(50 * time.Millisecond) // two that are pending at once are one
		producer.Process.Signal(signal)   // timeout(1) sends such a pair
		select {
		case <-ended:
			t.Errorf("%q: the first signals ended it: %v", arguments, producer.ProcessState)
		case <-time.After(500 * time.Millisecond):
		}
		producer.Process.Signal(signal)
		select {
		case <-ended:
		case <-time.After(bustest.Patience):
			t.Fatal("the second signal did not end it")
		}
		endedBy(t, producer, signal)
	}
}

// SIGINT ends a producer of one message as it ends any command, so that it ends a
// shell's loop around the producer.
func TestInterruptOfALoop(t *testing.T) {
	silent := bustest.Listen(t)
	producer := producerFor(silent.Addr().String(), nil, "-message", "x")
	start(t, producer)
	connection, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	producer.Process.Signal(syscall.SIGINT)
	producer.Wait()
	endedBy(t, producer, syscall.SIGINT)
}

// A shell starts the background commands of a script with SIGINT ignored. It stays
// ignored.
func TestIgnoredInterrupt(t *testing.T) {
	broker := startBroker(t)
	producer := exec.Command("sh", "-c", `trap "" INT; exec "$0" -port "$1" -topic t -lines`,
		filepath.Join(binaries, "producer"), broker.port)
	input, _ := startTyping(t, producer)
	for i := range 2 {
		fmt.Fprintln(input, i)
		awaitDispatched(t, broker, i+1)
		producer.Process.Signal(syscall.SIGINT)
	}
	input.Close()
	if err := producer.Wait(); err != nil {
		t.Error(err)
	}
}

// awaitDispatched waits until a broker has logged that count messages, each alone in
// its payload, were dispatched.
func awaitDispatched(t *testing.T, broker *daemon, count int) {
	t.Helper()
	bustest.Until(t, "the message", func() bool {
		return strings.Count(broker.Log.String(), " new message dispatched ") == count
	})
}
