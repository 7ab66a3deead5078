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
	"unsafe"
)

// terminal opens a pseudo-terminal: what is written to the one end is typed at
// the other.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	var number, lock int32
	for request, argument := range map[uintptr]*int32{syscall.TIOCSPTLCK: &lock, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), request, uintptr(unsafe.Pointer(argument))); errno != 0 {
			t.Fatal(errno)
		}
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// watch keeps what appears on a terminal.
func watch(person *os.File) *record {
	seen := &record{}
	go io.Copy(seen, person)
	return seen
}

// On a terminal, progress is shown after a second and is gone at the end.
func TestProgressOnATerminal(t *testing.T) {
	broker := startBroker(t)
	person, program := terminal(t)
	seen := watch(person)
	command := producing(broker.address(), nil, "-lines")
	command.Stderr = program
	input, _ := typing(t, command)
	fmt.Fprint(input, "1\n2\n3\n")
	shown := regexp.MustCompile(`^(\r3 messages, [123]/s *)+`)
	until(t, "progress", func() bool { return shown.MatchString(seen.String()) })
	input.Close()
	command.Wait()
	until(t, "the last line", func() bool { return strings.HasSuffix(seen.String(), "\n") })
	text := seen.String()
	last := regexp.MustCompile(`^\r( +)\rproducer: 3 messages accepted in [0-9.]+s\r\n$`).FindStringSubmatch(shown.ReplaceAllString(text, ""))
	if last == nil || len(last[1]) < len("3 messages, 3/s") {
		t.Errorf("the terminal has %q", text)
	}
}

// Who types is told what is awaited.
func TestTyping(t *testing.T) {
	broker := startBroker(t)
	for want, arguments := range map[string][]string{
		"producer: reading one message, up to the end of input (Ctrl-D)\n":           nil,
		"producer: reading lines, each a message, up to the end of input (Ctrl-D)\n": {"-lines"},
	} {
		person, program := terminal(t)
		var stderr record
		command := producing(broker.address(), program, arguments...)
		command.Stderr = &stderr
		started(t, command)
		until(t, "the notice", func() bool { return stderr.String() == want })
		io.WriteString(person, "1\n\x04") // Ctrl-D
		if err := command.Wait(); err != nil {
			t.Errorf("%v: %s", err, &stderr)
		}
	}
	_, program := terminal(t)
	if status, _, stderr := finish(t, producing(broker.address(), program, "-message", "1")); status != 0 || stderr != "" {
		t.Errorf("with -message: status %d: %s", status, stderr)
	}
	if got := broker.drained(); len(got) != 3 || !slices.Contains(got, "1") || !slices.Contains(got, `1\n`) {
		t.Errorf("in the log: %q", got)
	}
}

// A full queue refuses lines, of which the first is told, or is waited for.
func TestLinesToAFullBroker(t *testing.T) {
	var input strings.Builder
	for _, number := range numbers(1, 20_000) {
		fmt.Fprintln(&input, number)
	}
	broker, pipe := startInPipe(t, "-interval", "10ms", "-timeout", "1s", "-max-queued", "100000")
	status, said := sendLines(t, broker.address(), strings.NewReader(input.String()))
	if status != 1 || said.accepted == 0 || said.first != said.accepted+1 || said.last < said.first || said.why != broker.address()+": refused: queue is full" {
		t.Errorf("status %d, %+v", status, said)
	}
	rest := strings.Join(numbers(said.first, 20_000), "\n")
	command := producing(broker.address(), strings.NewReader(rest), "-lines", "-retry", "1h")
	stderr := started(t, command)
	time.Sleep(1500 * time.Millisecond) // one time-out of the broker, at least
	go pipe.readAll(t, 4096, 0)
	if err := command.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr)
	}
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Errorf("the broker's status is %d", status)
	}
	want := numbers(1, 20_000)
	until(t, "the last message", func() bool { return len(logged(pipe.String(), "t")) == len(want) })
	if got := logged(pipe.String(), "t"); !slices.Equal(got, want) {
		t.Errorf("%d messages are in the log, or in another order", len(got))
	}
}

// Whatever comes in and whatever the broker does, the producer's memory is bounded.
func TestProducerMemory(t *testing.T) {
	if buildFlags != nil {
		t.Skip("the race detector's memory is its own")
	}
	broker := startBroker(t, "-interval", "10ms")
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	path := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 60<<20)+strings.Repeat("\n", 20<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	const tooLong = "not accepted: the message is longer than 268435456 bytes"
	for name, test := range map[string]struct {
		input     string
		address   string
		arguments []string
		status    int
		want      string
		most      int // MiB
	}{
		"lines without an end":    {"yes", mute.Addr().String(), []string{"-lines", "-timeout", "2s"}, 3, "outcome unknown", 64},
		"a line without an end":   {"cat /dev/zero", broker.address(), []string{"-lines"}, 1, "from line 1 on: " + tooLong, 450},
		"input without an end":    {"cat /dev/zero", broker.address(), nil, 1, tooLong, 450},
		"many lines after a long": {path, mute.Addr().String(), []string{"-lines", "-timeout", "2s"}, 1, "sending broke off", 300},
	} {
		t.Run(name, func(t *testing.T) {
			command := producing(test.address, nil, test.arguments...)
			if filepath.IsAbs(test.input) {
				file, err := os.Open(test.input)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				command.Stdin = file
			} else {
				source := exec.Command("sh", "-c", "exec "+test.input)
				output, err := source.StdoutPipe()
				if err == nil {
					err = source.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				defer source.Wait()
				defer source.Process.Kill()
				command.Stdin = output
			}
			stderr := started(t, command)
			peak := 0
			until(t, "its end", func() bool {
				size, found := memory(command.Process.Pid, "VmHWM")
				peak = max(peak, size>>20)
				return !found
			})
			command.Wait()
			if status := command.ProcessState.ExitCode(); status != test.status || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("status %d: %s", status, stderr)
			}
			if peak > test.most {
				t.Errorf("%d MiB of memory, over %d", peak, test.most)
			}
			t.Logf("figure: %s: the producer's peak memory %d MiB", name, peak)
		})
	}
}
