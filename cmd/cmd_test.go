// Package cmd_test runs the real commands as their users do.
package cmd_test

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come, at the most.
const patience = 20 * time.Second

// binaries is where the commands under test are.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	// A program with the race detector sleeps before it exits, for other tools.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	var err error
	if binaries, err = os.MkdirTemp("", "mbus"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	arguments := append([]string{"build", "-o", binaries}, buildFlags...)
	build := exec.Command("go", append(arguments, "mbus/cmd/broker", "mbus/cmd/producer")...)
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// command returns a command that is not started.
func command(name string, arguments ...string) *exec.Cmd {
	return exec.Command(filepath.Join(binaries, name), arguments...)
}

// run runs a command to its end.
func run(t *testing.T, name string, arguments ...string) (status int, stdout, stderr string) {
	t.Helper()
	return finish(t, command(name, arguments...))
}

// finish is run for a command that may have a standard input and outputs.
func finish(t *testing.T, command *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var output, complaints bytes.Buffer
	if command.Stdout == nil {
		command.Stdout = &output
	}
	if command.Stderr == nil {
		command.Stderr = &complaints
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { command.Process.Kill() })
	defer timer.Stop()
	command.Wait()
	return command.ProcessState.ExitCode(), output.String(), complaints.String()
}

// expect fails the test unless a command ends with status and with these words
// on standard error, and with nothing on standard output.
func expect(t *testing.T, status int, stderr string, name string, arguments ...string) {
	t.Helper()
	gotStatus, gotStdout, gotStderr := run(t, name, arguments...)
	if gotStatus != status || gotStderr != stderr || gotStdout != "" {
		t.Errorf("%s %q: status %d, standard error:\n%sstandard output:\n%s\nwant status %d, standard error:\n%s",
			name, arguments, gotStatus, gotStderr, gotStdout, status, stderr)
	}
}

// record is what a process has written so far.
type record struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (record *record) Write(text []byte) (int, error) {
	record.mutex.Lock()
	defer record.mutex.Unlock()
	return record.text.Write(text)
}

func (record *record) String() string {
	record.mutex.Lock()
	defer record.mutex.Unlock()
	return record.text.String()
}

// daemon is a running broker.
type daemon struct {
	t       *testing.T
	command *exec.Cmd
	log     fmt.Stringer
	host    string
	port    string
	ended   chan struct{}
}

// startBroker starts a broker on a free port, which ends with the test.
func startBroker(t *testing.T, arguments ...string) *daemon {
	t.Helper()
	return startCommand(t, command("broker", append([]string{"-pport", "0"}, arguments...)...))
}

// startCommand is startBroker for a command that starts a broker.
func startCommand(t *testing.T, command *exec.Cmd) *daemon {
	t.Helper()
	log := &record{}
	command.Stderr = log
	return startLogged(t, command, log)
}

// startLogged is startCommand for a command that writes its log elsewhere.
func startLogged(t *testing.T, command *exec.Cmd, log fmt.Stringer) *daemon {
	t.Helper()
	daemon := &daemon{t: t, command: command, log: log, ended: make(chan struct{})}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		command.Wait()
		close(daemon.ended)
	}()
	t.Cleanup(func() {
		command.Process.Kill()
		<-daemon.ended
		if strings.Contains(daemon.log.String(), "DATA RACE") {
			t.Errorf("the broker has a data race:\n%s", daemon.log)
		}
	})
	listening := regexp.MustCompile(`Broker: listening on (.*)\n`)
	until(t, "the listening line", func() bool {
		line := listening.FindStringSubmatch(daemon.log.String())
		if line != nil {
			daemon.host, daemon.port, _ = net.SplitHostPort(line[1])
		}
		return line != nil
	})
	return daemon
}

// address returns what the broker listens on.
func (daemon *daemon) address() string {
	return net.JoinHostPort(daemon.host, daemon.port)
}

// send runs a producer for this broker.
func (daemon *daemon) send(topic, message string) (status int, stderr string) {
	daemon.t.Helper()
	status, _, stderr = run(daemon.t, "producer", "-port", daemon.port, "-topic", topic, "-message", message)
	return status, stderr
}

// signal sends a signal to the broker.
func (daemon *daemon) signal(signal syscall.Signal) {
	daemon.t.Helper()
	if err := daemon.command.Process.Signal(signal); err != nil {
		daemon.t.Fatal(err)
	}
}

// wait waits for the broker's end and returns its exit status.
func (daemon *daemon) wait() int {
	daemon.t.Helper()
	select {
	case <-daemon.ended:
	case <-time.After(patience):
		daemon.t.Fatal("the broker did not end")
	}
	return daemon.command.ProcessState.ExitCode()
}

// until polls until condition holds.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come: %s", what)
		}
	}
}

// What a user sees: a broker, a producer, and the log, line for line.
func TestTranscript(t *testing.T) {
	broker := startBroker(t)
	begin := time.Now()
	if status, stderr := broker.send("orders", "look ma! a new order"); status != 0 || stderr != "" {
		t.Errorf("status %d: %s", status, stderr)
	}
	until(t, "the line", func() bool { return strings.Contains(broker.log.String(), "dispatched") })
	if time.Since(begin) < 2*time.Second && strings.Contains(broker.log.String(), "Received") {
		t.Error("drained before the first interval was over")
	}
	until(t, "the message in the log", func() bool { return strings.Contains(broker.log.String(), "Received") })
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d after SIGTERM", status)
	}
	const stamp = `\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `
	want := `^` + stamp + `Broker: start listening for incoming producer messages\.\.\.
` + stamp + `Broker: listening on 127\.0\.0\.1:\d+
` + stamp + `creating topic orders
` + stamp + `new message dispatched on topic orders
` + stamp + `Received new message from topic 'orders': 'look ma! a new order'
$`
	if got := broker.log.String(); !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("the log is\n%s", got)
	}
}

func TestBrokerUsage(t *testing.T) {
	status, stdout, stderr := run(t, "broker", "-h")
	if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "usage: broker [flags]\n") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	for flag, value := range map[string]string{
		"-phost host": `"127.0.0.1"`, "-pport port": `"9990"`, "-interval duration": "3s", "-timeout duration": "5s",
		"-max-payload bytes": "16MiB", "-max-queued bytes": "256MiB", "-version": "",
	} {
		pattern := "(?m)^  " + flag + "\n.*"
		if value != "" {
			pattern += regexp.QuoteMeta("(default " + value + ")")
		}
		if !regexp.MustCompile(pattern + "$").MatchString(stdout) {
			t.Errorf("the usage does not tell %s with the default %s:\n%s", flag, value, stdout)
		}
	}
	for _, name := range []string{"broker", "producer"} {
		status, stdout, stderr := run(t, name, "-version")
		if status != 0 || stderr != "" || !regexp.MustCompile(`^mbus `+name+` \S+, go\S+\n$`).MatchString(stdout) {
			t.Errorf("status %d\n%s%s", status, stdout, stderr)
		}
	}
}

func TestBrokerMisuse(t *testing.T) {
	const size = "must be a count of bytes, at least 1, such as 1000, 64KiB, 16MiB or 1GiB"
	tooLarge := fmt.Sprint(`invalid value "9999999999GiB" for flag -max-queued: must be at most `,
		math.MaxInt, " bytes")
	for line, arguments := range map[string][]string{
		`-phost "": must be a host, 0.0.0.0 for all interfaces`:                         {"-phost", ""},
		`-pport "70000": must be a number from 0 to 65535, 0 for a free port`:           {"-pport", "70000"},
		`invalid value "3" for flag -interval: must be a duration, such as 5s or 100ms`: {"-interval", "3"},
		`-interval -1s: must be a duration of at least 0, such as 3s`:                   {"-interval", "-1s"},
		`invalid value "x" for flag -timeout: must be a duration, such as 5s or 100ms`:  {"-timeout", "x"},
		`-timeout 0s: must be a duration above 0, such as 5s`:                           {"-timeout", "0"},
		`invalid value "16M" for flag -max-payload: ` + size:                            {"-max-payload", "16M"},
		`invalid value "0" for flag -max-payload: ` + size:                              {"-max-payload", "0"},
		`invalid value "16GB" for flag -max-queued: ` + size:                            {"-max-queued", "16GB"},
		`invalid value "-1" for flag -max-queued: ` + size:                              {"-max-queued", "-1"},
		tooLarge:                               {"-max-queued", "9999999999GiB"},
		`flag provided but not defined: -port`: {"-port", "1"},
		`flag needs an argument: -pport`:       {"-pport"},
		`unexpected argument "start"`:          {"-pport", "0", "start"},
		`flag provided but not defined: -a\nb`: {"-a\nb"},
	} {
		expect(t, 2, "broker: "+line+" (see broker -h)\n", "broker", arguments...)
	}
}

// What keeps a broker from starting is one line, and status 1.
func TestBrokerCannotStart(t *testing.T) {
	broker := startBroker(t)
	expect(t, 1, fmt.Sprintf("broker: listen tcp 127.0.0.1:%s: bind: address already in use\n", broker.port),
		"broker", "-pport", broker.port)
	status, _, stderr := run(t, "broker", "-phost", "no-such-host.invalid")
	if status != 1 || !strings.HasPrefix(stderr, "broker: listen tcp: lookup no-such-host.invalid") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// The first signal drains and ends with status 0.
func TestSignals(t *testing.T) {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}
	if signal.Ignored(syscall.SIGHUP) {
		t.Log("not tried with SIGHUP, which is ignored here, as nohup has it")
	} else {
		signals = append(signals, syscall.SIGHUP)
	}
	for _, signal := range signals {
		broker := startBroker(t, "-interval", "1h")
		if status, stderr := broker.send("t", signal.String()); status != 0 {
			t.Errorf("status %d: %s", status, stderr)
		}
		broker.signal(signal)
		if status := broker.wait(); status != 0 {
			t.Errorf("%v: status %d", signal, status)
		}
		if want := "Received new message from topic 't': '" + signal.String() + "'\n"; !strings.HasSuffix(broker.log.String(), want) {
			t.Errorf("%v: the log is\n%s", signal, broker.log)
		}
	}
}

// A second signal ends the broker at once, as if it had never been caught.
func TestSecondSignal(t *testing.T) {
	broker := startBroker(t, "-timeout", "1h")
	stalled, err := net.Dial("tcp", broker.address())
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if _, err := stalled.Write([]byte{0x82}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	until(t, "the broker's end", func() bool {
		broker.command.Process.Signal(syscall.SIGTERM)
		select {
		case <-broker.ended:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	broker.wait()
	status := broker.command.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("%v", broker.command.ProcessState)
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("it ended after %s", took)
	}
}

// A terminal that is closed sends SIGHUP twice, which is no second signal.
func TestHangup(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored here, as nohup has it")
	}
	broker := startBroker(t, "-interval", "1h", "-timeout", "1s")
	if status, stderr := broker.send("t", "1"); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	silent, err := net.Dial("tcp", broker.address()) // keeps the broker from stopping at once
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	broker.signal(syscall.SIGHUP)
	time.Sleep(50 * time.Millisecond) // two that are pending at once are one
	broker.signal(syscall.SIGHUP)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	if !strings.HasSuffix(broker.log.String(), "Received new message from topic 't': '1'\n") {
		t.Errorf("the log is\n%s", broker.log)
	}
}

// With SIGHUP ignored, as nohup does, the broker goes on after it.
func TestNohup(t *testing.T) {
	broker := startCommand(t, exec.Command("sh", "-c", `trap "" HUP; exec "$0" -pport 0`, filepath.Join(binaries, "broker")))
	broker.signal(syscall.SIGHUP)
	if status, stderr := broker.send("t", "1"); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestProducerUsage(t *testing.T) {
	status, stdout, stderr := run(t, "producer", "-h")
	if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "usage: producer -topic TOPIC [-message TEXT | -lines] [flags]\n") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	for flag, value := range map[string]string{"-host host": `"127.0.0.1"`, "-port port": `"9990"`, "-timeout duration": "30s", "-retry duration": "0s"} {
		if !regexp.MustCompile("(?m)^  " + flag + "\n.*" + regexp.QuoteMeta("(default "+value+")") + "$").MatchString(stdout) {
			t.Errorf("the usage does not tell %s with the default %s:\n%s", flag, value, stdout)
		}
	}
}

func TestProducerMisuse(t *testing.T) {
	for line, arguments := range map[string][]string{
		`-topic is missing or empty: must be the topic to send to`:                     {"-message", "x"},
		`-message and -lines: must be one of them`:                                     {"-topic", "t", "-message", "", "-lines"},
		`-host "": must be a host`:                                                     {"-topic", "t", "-message", "x", "-host", ""},
		`-port "0": must be a number from 1 to 65535`:                                  {"-topic", "t", "-message", "x", "-port", "0"},
		`-timeout 0s: must be a duration above 0, such as 30s`:                         {"-topic", "t", "-message", "x", "-timeout", "0"},
		`invalid value "1" for flag -timeout: must be a duration, such as 5s or 100ms`: {"-topic", "t", "-message", "x", "-timeout", "1"},
		`-retry -1s: must be a duration of at least 0, such as 30s`:                    {"-topic", "t", "-retry", "-1s"},
		`invalid value "x" for flag -retry: must be a duration, such as 5s or 100ms`:   {"-topic", "t", "-retry", "x"},
		`flag provided but not defined: -pport`:                                        {"-pport", "1"},
		`unexpected argument "a"`:                                                      {"-topic", "t", "-message", "look", "a", "new", "order"},
	} {
		expect(t, 2, "producer: "+line+" (see producer -h)\n", "producer", arguments...)
	}
	expect(t, 2, "producer: -topic is missing or empty: must be the topic to send to (see producer -h)\n", "producer", "-topic", "", "-message", "x")
}

func TestProducerStatuses(t *testing.T) {
	broker := startBroker(t, "-max-payload", "1000")
	address := broker.address()
	send := func(arguments ...string) []string {
		return append([]string{"-port", broker.port, "-topic"}, arguments...)
	}
	expect(t, 0, "", "producer", send("t", "-message", "text")...)
	expect(t, 0, "", "producer", send("t", "-message", "")...)
	expect(t, 0, "", "producer", send("t", "-message=-h", "-host", "localhost")...)
	expect(t, 1, "producer: "+address+": refused: the payload is too large: more than 1000 bytes (the broker's -max-payload)\n",
		"producer", send("t", "-message", strings.Repeat("x", 1000))...)
	expect(t, 2, "producer: -topic is not printable UTF-8 at byte 2 (see producer -h)\n",
		"producer", send("t\n", "-message", "x")...)

	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	expect(t, 1, "producer: "+address+": not accepted: connect: connection refused\n", "producer", send("t", "-message", "x")...)

	// A listener that never answers: the kernel takes everything for it.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	_, port, _ := net.SplitHostPort(mute.Addr().String())
	expect(t, 3, fmt.Sprintf("producer: %s: outcome unknown, sending again may duplicate: no end within 200ms\n", mute.Addr()),
		"producer", "-port", port, "-timeout", "200ms", "-topic", "t", "-message", "x")

	// A reason is text from the network: it stays on its line.
	hostile := make(chan error, 1)
	go func() {
		connection, err := mute.Accept() // the connection that was not answered
		if err == nil {
			connection.Close()
			connection, err = mute.Accept()
		}
		if err == nil {
			defer connection.Close()
			if _, err = connection.Read(make([]byte, 4096)); err == nil {
				_, err = connection.Write([]byte("\x82\xa8Accepted\x00\xa5Error\xa8\n\x1b[31mno"))
			}
		}
		hostile <- err
	}()
	expect(t, 1, fmt.Sprintf("producer: %s: refused: \\n\\x1b[31mno\n", mute.Addr()), "producer", "-port", port, "-topic", "t", "-message", "x")
	if err := <-hostile; err != nil {
		t.Error(err)
	}
}

// The README's client in Python works as it is printed.
func TestReadmeClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to run the README's client")
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```python\n")
	client, rest, found := strings.Cut(rest, "```\n\nprints `")
	want, _, _ := strings.Cut(rest, "`.\n")
	if !found {
		t.Fatal("the README has no client")
	}
	broker := startBroker(t, "-interval", "10ms")
	client = strings.Replace(client, "9990", broker.port, 1)
	if output, err := exec.Command(python, "-c", client).CombinedOutput(); err != nil || string(output) != want+"\n" {
		t.Errorf("%v: printed %s, want %s", err, output, want)
	}
	until(t, "the message in the log", func() bool {
		return strings.Contains(broker.log.String(), "Received new message from topic 'orders': 'hello from Python'\n")
	})
}
