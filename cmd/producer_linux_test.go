package cmd_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"mbus/internal/shared/bustest"
)

// openTerminal opens a pseudo-terminal. A command uses the terminal. The test types at the
// controller, and reads there what the terminal shows.
func openTerminal(t *testing.T) (controller, terminal *os.File) {
	t.Helper()
	controller, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("the system has no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { controller.Close() })
	var number, lock int32
	for request, argument := range map[uintptr]*int32{
		syscall.TIOCSPTLCK: &lock,
		syscall.TIOCGPTN:   &number,
	} {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, controller.Fd(), request,
			uintptr(unsafe.Pointer(argument)))
		if errno != 0 {
			t.Fatal(errno)
		}
	}
	path := fmt.Sprintf("/dev/pts/%d", number)
	terminal, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return controller, terminal
}

// On a terminal the producer shows its progress, and erases it when it ends.
func TestProgressOnATerminal(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	controller, terminal := openTerminal(t)
	seen := &bustest.Record{}
	go io.Copy(seen, controller)
	command := producerFor(broker.Address, nil, "-lines")
	command.Stderr = terminal
	input, producer := startTyping(t, command)
	fmt.Fprint(input, "1\n2\n3\n")
	shown := regexp.MustCompile(`^(\r3 messages, [123]/s *)+`)
	bustest.Until(t, "progress", func() bool { return shown.MatchString(seen.String()) })
	input.Close()
	producer.Wait()
	bustest.Until(t, "the last line", func() bool { return strings.HasSuffix(seen.String(), "\n") })
	text := seen.String()
	rest := shown.ReplaceAllString(text, "")
	last := regexp.MustCompile(`^\r( +)\rproducer: 3 messages accepted in [0-9.]+s\r\n$`)
	match := last.FindStringSubmatch(rest)
	if match == nil || len(match[1]) < len("3 messages, 3/s") {
		t.Errorf("the terminal shows %q, want the progress, spaces over it, and the report", text)
	}
}

// If standard input is a terminal, the producer prints a line that says what to type.
func TestTyping(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	const end = ", up to the end of input (Ctrl-D)\n"
	for want, arguments := range map[string][]string{
		"producer: reading one message" + end:           nil,
		"producer: reading lines, each a message" + end: {"-lines"},
	} {
		controller, terminal := openTerminal(t)
		producer := bustest.Start(t, producerFor(broker.Address, terminal, arguments...))
		bustest.Until(t, "the notice", func() bool { return producer.Stderr.String() == want })
		io.WriteString(controller, "1\n\x04") // Ctrl-D
		if status := producer.Wait(); status != 0 {
			t.Errorf("with %q the producer ended with status %d: %s",
				arguments, status, producer.Stderr)
		}
	}
	_, terminal := openTerminal(t)
	status, _, stderr := finish(t, producerFor(broker.Address, terminal, "-message", "1"))
	if status != 0 || stderr != "" {
		t.Errorf("with -message the producer ended with status %d: %s", status, stderr)
	}
	got := broker.stopAndReceive()
	if len(got) != 3 || !slices.Contains(got, "1") || !slices.Contains(got, `1\n`) {
		t.Errorf("the messages in the log are %q, want 1 twice and 1 with a line feed", got)
	}
}

// On a terminal the report of an outage is on its own line. The producer erases the progress
// before the report, and shows it again after it.
func TestOutageOnATerminal(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	controller, terminal := openTerminal(t)
	seen := &bustest.Record{}
	go io.Copy(seen, controller)
	command := producerFor(address, nil, "-lines", "-retry", "1h")
	command.Stderr = terminal
	input, producer := startTyping(t, command)
	fmt.Fprintln(input, 1)
	reported := regexp.MustCompile(`^(\r0 messages, 0/s *)+\r +\r` +
		`producer: [0-9.:]+: not accepted: .*; retrying for up to [0-9m]+s\r\n` +
		`\r0 messages, 0/s`)
	bustest.Until(t, "the report", func() bool { return reported.MatchString(seen.String()) })
	broker := startAt(t, address)
	ended := regexp.MustCompile(
		`\r +\rproducer: [0-9.:]+: accepted after [0-9]+s of retrying\r\n`)
	bustest.Until(t, "the end of the outage", func() bool {
		return ended.MatchString(seen.String())
	})
	input.Close()
	if status := producer.Wait(); status != 0 {
		t.Errorf("the producer ended with status %d: the terminal shows %q", status, seen)
	}
	broker.stop()
}

// The producer's memory is bounded, whatever its input and whatever the broker does.
func TestProducerMemory(t *testing.T) {
	t.Parallel()
	skipWithRaceDetector(t)
	broker := startBroker(t, "-interval", "10ms")
	silent := bustest.Listen(t).Addr().String()
	const tooLong = "not accepted: the message is longer than 268435456 bytes"
	for name, test := range map[string]struct {
		input     io.Reader
		address   string
		arguments []string
		status    int
		want      string  // a part of standard error
		limit     float64 // of memory, in MiB
	}{
		"lines without an end": {&bustest.Endless{}, silent,
			[]string{"-lines", "-timeout", "2s"}, 3, "outcome unknown", 64},
		"a line without an end": {&bustest.Endless{OneLine: true}, broker.Address,
			[]string{"-lines"}, 1, "from line 1 on: " + tooLong, 450},
		"input without an end": {&bustest.Endless{OneLine: true}, broker.Address,
			nil, 1, tooLong, 450},
		"many lines after a long one": {longLineFile(t), silent,
			[]string{"-lines", "-timeout", "2s"}, 1, "sending broke off", 300},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			producer := bustest.Start(t,
				producerFor(test.address, test.input, test.arguments...))
			peak := peakUntilEnd(t, producer)
			status := producer.Wait()
			if status != test.status || !strings.Contains(producer.Stderr.String(), test.want) {
				t.Errorf("the producer ended with status %d: %s", status, producer.Stderr)
			}
			if peak > test.limit {
				t.Errorf("the peak memory is %.0f MiB, want at most %.0f MiB", peak, test.limit)
			}
			t.Logf("figure: %s: the producer's peak memory %.0f MiB", name, peak)
		})
	}
}

// longLineFile returns a file with a line of 60 MiB, and more than 20 million empty lines after
// it.
func longLineFile(t *testing.T) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "input")
	text := strings.Repeat("x", 60<<20) + strings.Repeat("\n", 20<<20)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}
