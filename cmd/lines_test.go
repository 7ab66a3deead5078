package cmd_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/escape"
)

// producing returns a producer for address and the topic t, which is not started.
func producing(address string, input io.Reader, arguments ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(address)
	command := command("producer", append([]string{"-host", host, "-port", port, "-topic", "t"}, arguments...)...)
	command.Stdin = input
	return command
}

// started starts a command that ends with the test, and returns what it will have
// written to standard error at its end.
func started(t *testing.T, command *exec.Cmd) (stderr *bytes.Buffer) {
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

// typing is started for a command whose standard input the test writes.
func typing(t *testing.T, command *exec.Cmd) (input io.WriteCloser, stderr *bytes.Buffer) {
	t.Helper()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return input, started(t, command)
}

// told is the one line in which a producer tells what became of its lines.
type told struct {
	accepted    int
	first, last int    // the lines that the failure is about; the last is 0 if there is no end
	why         string // after these; empty after a success
}

// tell parses what a producer said.
func tell(t *testing.T, stderr string) told {
	t.Helper()
	pattern := regexp.MustCompile(`^producer: (\d+) messages? accepted in [0-9.µmsh]+(?:; (?:from line (\d+) on|line (\d+)|lines (\d+) to (\d+)): (.+))?\n$`)
	match := pattern.FindStringSubmatch(stderr)
	if match == nil {
		t.Fatalf("it said %q", stderr)
	}
	number := func(i int) int {
		value, _ := strconv.Atoi(match[i])
		return value
	}
	return told{number(1), number(2) + number(3) + number(4), number(3) + number(5), match[6]}
}

// sendLines runs a producer for the lines of input.
func sendLines(t *testing.T, address string, input io.Reader, arguments ...string) (status int, said told) {
	t.Helper()
	status, stdout, stderr := finish(t, producing(address, input, append([]string{"-lines"}, arguments...)...))
	if stdout != "" {
		t.Errorf("standard output: %s", stdout)
	}
	return status, tell(t, stderr)
}

// logged returns the messages on a topic in a log, as it has them, up to the last
// whole line.
func logged(log, topic string) []string {
	messages := []string{}
	for line := range strings.Lines(log) {
		if _, data, found := strings.Cut(line, " Received new message from topic '"+topic+"': '"); found && strings.HasSuffix(data, "'\n") {
			messages = append(messages, strings.TrimSuffix(data, "'\n"))
		}
	}
	return messages
}

// drained stops the broker and returns the messages on the topic t in its log.
func (daemon *daemon) drained() []string {
	daemon.t.Helper()
	daemon.signal(syscall.SIGTERM)
	if status := daemon.wait(); status != 0 {
		daemon.t.Errorf("the broker's status is %d", status)
	}
	return logged(daemon.log.String(), "t")
}

// numbers returns the numbers from first to last as text.
func numbers(first, last int) []string {
	list := make([]string, 0, max(last-first+1, 0))
	for i := first; i <= last; i++ {
		list = append(list, strconv.Itoa(i))
	}
	return list
}

// A million lines from a file arrive in order.
func TestMillionLines(t *testing.T) {
	const count = 1_000_000
	path := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(path, []byte(strings.Join(numbers(1, count), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	input, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	broker := startInFile(t, filepath.Join(t.TempDir(), "log"))
	if status, said := sendLines(t, broker.address(), input); status != 0 || said != (told{accepted: count}) {
		t.Errorf("status %d, %+v", status, said)
	}
	if got := broker.drained(); !slices.Equal(got, numbers(1, count)) {
		t.Errorf("%d messages are in the log, or another order", len(got))
	}
}

// A line that is typed is accepted within a moment, and nothing is said before
// the end where nobody looks.
func TestTypedLines(t *testing.T) {
	broker := startBroker(t)
	command := producing(broker.address(), nil, "-lines")
	input, stderr := typing(t, command)
	best := time.Hour // a busy machine may hold up some
	const count = 12
	for i := range count {
		begin := time.Now()
		fmt.Fprintln(input, i)
		until(t, "the line", func() bool { return strings.Count(broker.log.String(), "new message dispatched") == i+1 })
		best = min(best, time.Since(begin))
	}
	if best > 300*time.Millisecond {
		t.Errorf("a line took %s at best", best)
	}
	input.Close()
	command.Wait()
	if said := tell(t, stderr.String()); command.ProcessState.ExitCode() != 0 || said.accepted != count {
		t.Errorf("%v: %s", command.ProcessState, stderr)
	}
}

// Whatever the bytes of a line, it arrives as it is.
func TestLinesOfAnyBytes(t *testing.T) {
	for name, test := range map[string]struct {
		input string
		want  []string
	}{
		"nothing":            {"", []string{}},
		"only line feeds":    {"\n\n\n", []string{"", "", ""}},
		"no end":             {"a\nb", []string{"a", "b"}},
		"CRLF":               {"a\r\n\r\nb\r\n", []string{"a\r", "\r", "b\r"}},
		"NUL":                {"\x00\na\x00b\n", []string{"\x00", "a\x00b"}},
		"not UTF-8":          {"\xff\xfe\n\xc3\n\x28\n", []string{"\xff\xfe", "\xc3", "("}},
		"quotes":             {"'\n\"\\\n\t\n", []string{"'", "\"\\", "\t"}},
		"70,000 bytes":       {strings.Repeat("x", 70_000) + "\ny\n", []string{strings.Repeat("x", 70_000), "y"}},
		"2 MiB":              {"x\n" + strings.Repeat("\x01", 2<<20) + "\ny\n", []string{"x", strings.Repeat("\x01", 2<<20), "y"}},
		"2 MiB without end":  {strings.Repeat("x", 2<<20), []string{strings.Repeat("x", 2<<20)}},
		"a byte over 64 KiB": {strings.Repeat("x", 64<<10) + "\n", []string{strings.Repeat("x", 64<<10)}},
	} {
		t.Run(name, func(t *testing.T) {
			broker := startBroker(t)
			status, said := sendLines(t, broker.address(), strings.NewReader(test.input))
			if status != 0 || said != (told{accepted: len(test.want)}) {
				t.Errorf("status %d, %+v", status, said)
			}
			for i, line := range test.want {
				test.want[i] = string(escape.Append(nil, []byte(line)))
			}
			if got := broker.drained(); !slices.Equal(got, test.want) {
				t.Errorf("in the log: %.200q", got)
			}
		})
	}
}

// A batch over the limit goes in parts; a line over the limit is named.
func TestLineOverTheLimit(t *testing.T) {
	broker := startBroker(t, "-max-payload", "5000")
	var input strings.Builder
	for _, number := range numbers(1, 1000) {
		fmt.Fprintf(&input, "%s\n", number)
	}
	fmt.Fprintf(&input, "%5000d\nafter\n", 1001)
	status, said := sendLines(t, broker.address(), strings.NewReader(input.String()), "-retry", "1h")
	want := told{1000, 1001, 1001, broker.address() + ": refused: the payload is too large: more than 5000 bytes (the broker's -max-payload)"}
	if status != 1 || said != want {
		t.Errorf("status %d, %+v, want %+v", status, said, want)
	}
	if got := broker.drained(); !slices.Equal(got, numbers(1, 1000)) {
		t.Errorf("in the log: %.200q", got)
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
		{"", 1, "producer: not accepted: the input is empty: to send an empty message, use -message ''\n"},
		{strings.Repeat("x", 5000), 1, "producer: " + broker.address() + ": refused: the payload is too large: more than 5000 bytes (the broker's -max-payload)\n"},
	} {
		if status, _, stderr := finish(t, producing(broker.address(), strings.NewReader(test.input))); status != test.status || stderr != test.stderr {
			t.Errorf("%.20q: status %d: %s", test.input, status, stderr)
		}
	}
	directory, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	const why = "not accepted: read /dev/stdin: is a directory"
	if status, _, stderr := finish(t, producing(broker.address(), directory)); status != 1 || stderr != "producer: "+why+"\n" {
		t.Errorf("a directory: status %d: %s", status, stderr)
	}
	if status, said := sendLines(t, broker.address(), directory); status != 1 || said != (told{0, 1, 0, why}) {
		t.Errorf("the lines of a directory: status %d: %+v", status, said)
	}
	if got := broker.drained(); !slices.Equal(got, []string{`look\nma!\n`}) {
		t.Errorf("in the log: %q", got)
	}
}

// With -message, standard input is left to the loop around it.
func TestLoop(t *testing.T) {
	broker := startBroker(t)
	loop := exec.Command("sh", "-c", `while read -r line; do "$0" -port "$1" -topic t -message "$line" || exit; done`,
		filepath.Join(binaries, "producer"), broker.port)
	loop.Stdin = strings.NewReader("1\n2\n3\n")
	if status, _, stderr := finish(t, loop); status != 0 || stderr != "" {
		t.Errorf("status %d: %s", status, stderr)
	}
	if got := broker.drained(); !slices.Equal(got, numbers(1, 3)) {
		t.Errorf("in the log: %q", got)
	}
}

// free returns an address at which nobody listens.
func free(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// startAt starts a broker at an address.
func startAt(t *testing.T, address string, arguments ...string) *daemon {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	return startBroker(t, append([]string{"-pport", port}, arguments...)...)
}

// Without a broker nothing is accepted, unless one comes while -retry lasts.
func TestLinesWithoutABroker(t *testing.T) {
	address := free(t)
	const why = ": not accepted: connect: connection refused"
	for _, retry := range []string{"0", "300ms"} {
		if status, said := sendLines(t, address, strings.NewReader("1\n2\n"), "-retry", retry); status != 1 || said != (told{0, 1, 0, address + why}) {
			t.Errorf("status %d, %+v", status, said)
		}
	}
	ended := make(chan string)
	go func() {
		status, _, stderr := finish(t, producing(address, nil, "-message", "0", "-retry", "1h"))
		ended <- fmt.Sprint(status, stderr)
	}()
	time.Sleep(300 * time.Millisecond)
	broker := startAt(t, address)
	if got := <-ended; got != "0" {
		t.Error(got)
	}
	if got := broker.drained(); !slices.Equal(got, []string{"0"}) {
		t.Errorf("in the log: %q", got)
	}
}

// Through five graceful restarts of the broker nothing is lost and nothing
// arrives twice.
func TestRestarts(t *testing.T) {
	address := free(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		defer writer.Close()
		buffered := bufio.NewWriter(writer)
		count := 0
		for ; ; count++ {
			select {
			case <-stop:
				buffered.Flush()
				sent <- count
				return
			default:
				fmt.Fprintln(buffered, count+1)
			}
		}
	}()
	command := producing(address, reader, "-lines", "-retry", "30s")
	broker := startAt(t, address, "-interval", "20ms")
	stderr := started(t, command)
	reader.Close()
	var got []string
	for restart := range 6 {
		until(t, "a message", func() bool { return strings.Contains(broker.log.String(), "dispatched") })
		time.Sleep(time.Duration(restart) * 10 * time.Millisecond)
		if restart == 5 {
			close(stop)
			break
		}
		got = append(got, broker.drained()...)
		broker = startAt(t, address, "-interval", "20ms")
	}
	count := <-sent
	command.Wait()
	if said := tell(t, stderr.String()); command.ProcessState.ExitCode() != 0 || said != (told{accepted: count}) {
		t.Errorf("%v: %s", command.ProcessState, stderr)
	}
	got = append(got, broker.drained()...)
	if !slices.Equal(got, numbers(1, count)) {
		t.Errorf("%d messages were sent and %d are in the logs, or in another order", count, len(got))
	}
	t.Logf("figure: five restarts during a stream of %d lines with -retry 30s: 0 lost, 0 twice, all in order", count)
}

// endless is an input of numbered lines that ends only with its reader.
func endless(t *testing.T) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer writer.Close()
		buffered := bufio.NewWriter(writer)
		for i := 1; ; i++ {
			if _, err := fmt.Fprintln(buffered, i); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { reader.Close() })
	return reader
}

// After the broker was killed, the producer tells of which lines it knows nothing,
// and is right about all others.
func TestKilledInMidStream(t *testing.T) {
	unknown := 0
	for round := range either(50, 6) {
		broker := startInFile(t, filepath.Join(t.TempDir(), fmt.Sprint("log", round)), "-interval", "0")
		command := producing(broker.address(), endless(t), "-lines")
		stderr := started(t, command)
		until(t, "a message", func() bool { return strings.Contains(broker.log.String(), "Received") })
		time.Sleep(time.Duration(round%10) * 3 * time.Millisecond)
		broker.signal(syscall.SIGKILL)
		broker.wait()
		command.Wait()
		said, got := tell(t, stderr.String()), logged(broker.log.String(), "t")
		if !slices.Equal(got, numbers(1, len(got))) {
			t.Fatal("the log has a gap or another order")
		}
		switch status := command.ProcessState.ExitCode(); {
		case said.first != said.accepted+1:
			t.Errorf("%+v", said)
		case status == 1 && len(got) == said.accepted:
		case status == 3 && len(got) >= said.accepted && len(got) <= said.last:
			unknown++
		default:
			t.Errorf("status %d, %+v, %d messages are in the log", status, said, len(got))
		}
	}
	t.Logf("%d outcomes were unknown", unknown)

	// A broker that stands still takes a small payload, as far as the producer
	// can see.
	broker := startBroker(t)
	command := producing(broker.address(), nil, "-lines")
	input, stderr := typing(t, command)
	io.WriteString(input, "1\n2\n3\n")
	until(t, "the first lines", func() bool { return strings.Contains(broker.log.String(), "3 new messages dispatched") })
	broker.signal(syscall.SIGSTOP)
	io.WriteString(input, "4\n5\n")
	time.Sleep(500 * time.Millisecond) // no sign tells that these are in flight
	io.WriteString(input, "6\n")
	broker.signal(syscall.SIGKILL)
	command.Wait()
	want := told{3, 4, 5, broker.address() + ": outcome unknown, sending again may duplicate: read: connection reset by peer"}
	if said := tell(t, stderr.String()); command.ProcessState.ExitCode() != 3 || said != want {
		t.Errorf("%v: %+v, want %+v", command.ProcessState, said, want)
	}
}

// Whoever answers nothing or nonsense, the outcome is unknown.
func TestLinesToOthers(t *testing.T) {
	for answer, why := range map[string]string{
		"":                                 "no end within 1s",
		"HTTP/1.1 400 Bad Request\r\n\r\n": "the answer is not a reply of mbus, is -port right? the reply is an integer, must be a map of Accepted and Error",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if answer != "" {
			go func() {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				io.Copy(io.Discard, connection)
				io.WriteString(connection, answer)
				connection.Close()
			}()
		}
		status, said := sendLines(t, listener.Addr().String(), strings.NewReader("1\n2\n"), "-timeout", "1s", "-retry", "1h")
		if want := (told{0, 1, 2, listener.Addr().String() + ": outcome unknown, sending again may duplicate: " + why}); status != 3 || said != want {
			t.Errorf("status %d, %+v, want %+v", status, said, want)
		}
	}
}

// A signal lets the payload in flight end, and the line about what was accepted
// is true.
func TestInterrupt(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		broker := startInFile(t, filepath.Join(t.TempDir(), "log"))
		command := producing(broker.address(), endless(t), "-lines")
		stderr := started(t, command)
		until(t, "a message", func() bool { return strings.Contains(broker.log.String(), "dispatched") })
		command.Process.Signal(signal)
		command.Wait()
		said := tell(t, stderr.String())
		if want := (told{said.accepted, said.accepted + 1, 0, "not accepted: stopped by signal: " + signal.String()}); command.ProcessState.ExitCode() != 1 || said != want {
			t.Errorf("%v: %+v, want %+v", command.ProcessState, said, want)
		}
		if got := broker.drained(); !slices.Equal(got, numbers(1, said.accepted)) {
			t.Errorf("%d messages were accepted, %d are in the log, or in another order", said.accepted, len(got))
		}
	}
}

// A second signal ends a producer that waits for an answer.
func TestSecondInterrupt(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for signal, arguments := range map[syscall.Signal][]string{syscall.SIGINT: {"-lines"}, syscall.SIGTERM: {"-message", "x"}} {
		command := producing(mute.Addr().String(), strings.NewReader("1\n"), arguments...)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			command.Wait()
			close(ended)
		}()
		connection, err := mute.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		command.Process.Signal(signal)
		time.Sleep(50 * time.Millisecond) // two that are pending at once are one
		command.Process.Signal(signal)    // as timeout(1) has it
		select {
		case <-ended:
			t.Errorf("%q: the first signals ended it: %v", arguments, command.ProcessState)
		case <-time.After(500 * time.Millisecond):
		}
		command.Process.Signal(signal)
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("the second signal did not end it")
		}
		if status := command.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != signal {
			t.Errorf("%q: %v", arguments, command.ProcessState)
		}
	}
}

// SIGINT ends a producer of one message as any command, so that it ends a shell's
// loop around it.
func TestInterruptOfALoop(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	command := producing(mute.Addr().String(), nil, "-message", "x")
	started(t, command)
	connection, err := mute.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	command.Process.Signal(syscall.SIGINT)
	command.Wait()
	if status := command.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("%v", command.ProcessState)
	}
}

// As background commands of a script have it, an ignored SIGINT stays ignored.
func TestIgnoredInterrupt(t *testing.T) {
	broker := startBroker(t)
	command := exec.Command("sh", "-c", `trap "" INT; exec "$0" -port "$1" -topic t -lines`, filepath.Join(binaries, "producer"), broker.port)
	input, _ := typing(t, command)
	for i := range 2 {
		fmt.Fprintln(input, i)
		until(t, "the line", func() bool { return strings.Count(broker.log.String(), "new message dispatched") == i+1 })
		command.Process.Signal(syscall.SIGINT)
	}
	input.Close()
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
}

// A closed standard error changes nothing.
func TestLinesWithoutStandardError(t *testing.T) {
	broker := startBroker(t)
	command := exec.Command("sh", "-c", `exec "$0" -port "$1" -topic t -lines 2>&-`, filepath.Join(binaries, "producer"), broker.port)
	command.Stdin = strings.NewReader("1\n2\n")
	if status, _, _ := finish(t, command); status != 0 {
		t.Errorf("status %d", status)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	defer writer.Close()
	command = producing(broker.address(), strings.NewReader("3\n"), "-lines")
	command.Stderr = writer
	if status, _, _ := finish(t, command); status != 0 {
		t.Errorf("status %d", status)
	}
	if got := broker.drained(); !slices.Equal(got, numbers(1, 3)) {
		t.Errorf("in the log: %q", got)
	}
}

// readmeRecipes returns the README's shell commands.
func readmeRecipes(t *testing.T) []string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var recipes []string
	for _, found := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(readme, -1) {
		recipes = append(recipes, string(found[1]))
	}
	return recipes
}

// The README's recipes work as they are printed.
func TestRecipes(t *testing.T) {
	recipes := readmeRecipes(t)
	if len(recipes) != 5 {
		t.Fatalf("the README has %d recipes", len(recipes))
	}
	address := free(t)
	broker := startAt(t, address, "-max-payload", "20000")
	directory := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("app.log", "a\n", 0o600)
	write("orders.csv", "number,item\n1,cup\n2,\"big\nspoon\"\n", 0o600)
	const orders = 500_000
	write("orders.txt", strings.Join(numbers(1, orders), "\n")+"\n", 0o600)
	if err := os.Mkdir(filepath.Join(directory, "build"), 0o700); err != nil {
		t.Fatal(err)
	}
	// The broker is at another port than the recipes know.
	write("build/producer", fmt.Sprintf("#!/bin/sh\nexec '%s' -port %s \"$@\"\n", filepath.Join(binaries, "producer"), broker.port), 0o700)
	recipe := func(text string) *exec.Cmd {
		command := exec.Command("sh", "-c", text)
		command.Dir = directory
		command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return command
	}
	loop, all, follow, records, resume := recipes[0], recipes[1], recipes[2], recipes[3], recipes[4]

	for _, text := range []string{loop, all} {
		if status, _, stderr := finish(t, recipe(text)); status != 0 || stderr != "" {
			t.Errorf("%s\nstatus %d: %s", text, status, stderr)
		}
	}
	if status, _, stderr := finish(t, recipe(records)); status != 0 || tell(t, stderr).accepted != 3 {
		t.Errorf("%s\nstatus %d: %s", records, status, stderr)
	}

	following := recipe(follow)
	started(t, following)
	defer syscall.Kill(-following.Process.Pid, syscall.SIGKILL)
	followed := func(count int) {
		t.Helper()
		until(t, "a line of the log that is followed", func() bool {
			return strings.Count(broker.log.String(), "new message dispatched on topic app") == count
		})
	}
	followed(1)
	if err := os.Rename(filepath.Join(directory, "app.log"), filepath.Join(directory, "app.log.1")); err != nil {
		t.Fatal(err)
	}
	write("app.log", "b\n", 0o600)
	followed(2)
	syscall.Kill(-following.Process.Pid, syscall.SIGKILL)

	resuming := recipe(resume)
	stderr := started(t, resuming)
	batch := regexp.MustCompile(`\d{3} new messages dispatched on topic orders\n`)
	until(t, "a batch of orders", func() bool { return batch.MatchString(broker.log.String()) })
	broker.drained()
	log := broker.log.String()
	until(t, "a failure", func() bool { said, _ := os.ReadFile(filepath.Join(directory, "said")); return len(said) > 0 })
	broker = startAt(t, address)
	resuming.Wait()
	if said := tell(t, stderr.String()); resuming.ProcessState.ExitCode() != 0 || said.accepted == 0 || said.accepted >= orders {
		t.Errorf("%s\n%v: %s", resume, resuming.ProcessState, stderr)
	}
	broker.drained()
	log += broker.log.String()

	for topic, want := range map[string][]string{
		"files":  {"app.log", "build", "orders.csv", "orders.txt"},
		"app":    {"a", "b"},
		"orders": append([]string{"1,cup", `2,"big`, `spoon"`}, numbers(1, orders)...),
	} {
		if got := logged(log, topic); !slices.Equal(got, want) {
			t.Errorf("%s: %d messages are in the log, want %d, or in another order: %.300q", topic, len(got), len(want), got)
		}
	}
	if got := logged(log, "disk"); len(got) != 1 || !strings.HasPrefix(got[0], "Filesystem") {
		t.Errorf("disk: %q", got)
	}
}
