//go:build unix

package cmd_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

// brokerProcess is a running broker.
type brokerProcess struct {
	*bustest.Process
	*bustest.Client // of this broker
	t               *testing.T
	host            string
	port            string
}

// brokerCommand returns the command of a broker on a free port. It is not started.
func brokerCommand(arguments ...string) *exec.Cmd {
	return command("broker", append([]string{"-pport", "0"}, arguments...)...)
}

// startBroker starts a broker on a free port. It is killed when the test ends.
func startBroker(t *testing.T, arguments ...string) *brokerProcess {
	t.Helper()
	return startCommand(t, brokerCommand(arguments...))
}

// startAt starts a broker on the port of address.
func startAt(t *testing.T, address string, arguments ...string) *brokerProcess {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	return startBroker(t, append([]string{"-pport", port}, arguments...)...)
}

// startCommand is like startBroker, for a command that runs a broker.
func startCommand(t *testing.T, command *exec.Cmd) *brokerProcess {
	t.Helper()
	log := &bustest.Record{}
	command.Stderr = log
	return startLogged(t, command, log)
}

// startInFile starts a broker whose standard error, which is its log, is appended to the file
// path.
func startInFile(t *testing.T, path string, arguments ...string) *brokerProcess {
	t.Helper()
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command := brokerCommand(arguments...)
	command.Stderr = log
	return startLogged(t, command, file(path))
}

// file is the path of a log. Its String method returns the text that the file has, which is
// empty if there is no file.
type file string

func (f file) String() string {
	text, _ := os.ReadFile(string(f))
	return string(text)
}

// constant replaces a log that the test can't read. Its text is the listening line that the test
// expects the broker to write.
type constant string

func (c constant) String() string { return string(c) }

// startOnDevice starts a broker whose log is the device path. It skips the test if the device can't
// be opened.
func startOnDevice(t *testing.T, path string, arguments ...string) *brokerProcess {
	t.Helper()
	device, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer device.Close()
	address := bustest.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	command := command("broker", append([]string{"-pport", port}, arguments...)...)
	command.Stderr = device
	broker := startLogged(t, command, constant("Broker: listening on "+address+"\n"))
	bustest.Until(t, "a connection to the broker", func() bool {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	return broker
}

// startInPipe starts a broker whose log is a pipe.
func startInPipe(t *testing.T, arguments ...string) (*brokerProcess, *pipe) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	t.Cleanup(func() { reader.Close() })
	log := &pipe{reader: reader}
	command := brokerCommand(arguments...)
	command.Stderr = writer
	go log.readHead()
	return startLogged(t, command, log), log
}

// pipe is a log in a pipe. The function readHead reads it up to the listening line, and readRest
// reads the rest.
type pipe struct {
	bustest.Record
	reader *os.File
}

// readHead reads the pipe up to the listening line. It reads one byte at a time, so that it
// reads nothing after that line.
func (p *pipe) readHead() {
	one := make([]byte, 1)
	for !listeningLine.MatchString(p.String()) {
		if _, err := p.reader.Read(one); err != nil {
			return
		}
		p.Write(one)
	}
}

// readRest reads the pipe to its end. Each read takes at most size bytes, and a pause follows.
func (p *pipe) readRest(t *testing.T, size int, pause time.Duration) {
	t.Helper()
	buffer := make([]byte, size)
	for {
		count, err := p.reader.Read(buffer)
		p.Write(buffer[:count])
		if err == io.EOF || errors.Is(err, os.ErrClosed) { // the test has ended
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		time.Sleep(pause)
	}
}

// listeningLine matches the line with the broker's address.
var listeningLine = regexp.MustCompile(`Broker: listening on (.*)\n`)

// startLogged starts a command that runs a broker, which writes log. It waits until the listening
// line is in log.
func startLogged(t *testing.T, command *exec.Cmd, log fmt.Stringer) *brokerProcess {
	t.Helper()
	b := &brokerProcess{Process: bustest.Start(t, command), t: t}
	t.Cleanup(func() {
		b.Kill()
		if text := log.String(); strings.Contains(text, "DATA RACE") {
			t.Errorf("the broker has a data race:\n%s", text)
		}
	})
	var line []string
	bustest.Until(t, "the listening line", func() bool {
		line = listeningLine.FindStringSubmatch(log.String())
		return line != nil
	})
	b.Client = bustest.NewClient(t, line[1], log)
	b.host, b.port, _ = net.SplitHostPort(line[1])
	return b
}

// produce runs a producer that sends one message to this broker.
func (b *brokerProcess) produce(topic, message string) (status int, stderr string) {
	b.t.Helper()
	status, _, stderr = run(b.t, "producer",
		"-port", b.port, "-topic", topic, "-message", message)
	return status, stderr
}

// producer returns a producer that sends to this broker from the test's own process.
func (b *brokerProcess) producer() *producer.Producer {
	b.t.Helper()
	config := producer.DefaultConfig()
	config.Host, config.Port = b.host, b.port
	p, err := producer.New(config)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// fill sends the payloads in turn until the broker's queue is full. It returns how many
// payloads were accepted.
func (b *brokerProcess) fill(payloads ...string) int {
	b.t.Helper()
	for count := 0; ; count++ {
		reply := b.Send(payloads[count%len(payloads)])
		if reply.Error == "queue is full" {
			return count
		}
		if reply.Error != "" {
			b.t.Fatal(reply.Error)
		}
	}
}

// isBusy reports whether the broker serves another connection: it does not answer an empty
// payload within 200 ms.
func (b *brokerProcess) isBusy() bool {
	b.t.Helper()
	connection := b.Dial()
	defer connection.Close()
	connection.End("")
	connection.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, err := connection.Read(make([]byte, 1))
	return os.IsTimeout(err)
}

// stop stops the broker with SIGTERM. It fails the test unless the status is 0.
func (b *brokerProcess) stop() {
	b.t.Helper()
	b.Signal(syscall.SIGTERM)
	if status := b.Wait(); status != 0 {
		b.t.Fatalf("the broker ended with status %d, the log is\n%.2000s", status, b.Log)
	}
}

// stopAndReceive stops the broker, and returns the messages on the topic t in its log.
func (b *brokerProcess) stopAndReceive() []string {
	b.t.Helper()
	b.stop()
	return b.Received("t")
}

// startStore starts a broker with the flag -log path, on a free port. Its log is the file, not its
// standard error.
func startStore(t *testing.T, path string, arguments ...string) *brokerProcess {
	t.Helper()
	return startStoreAt(t, bustest.FreeAddress(t), path, arguments...)
}

// startStoreAt is like startStore, on the port of address.
func startStoreAt(t *testing.T, address, path string, arguments ...string) *brokerProcess {
	t.Helper()
	return startStoreCommand(t, address, path, command("broker", arguments...))
}

// startStoreCommand is like startStoreAt, for a command that runs a broker. It appends the flags
// for the port and the log.
func startStoreCommand(t *testing.T, address, path string, command *exec.Cmd) *brokerProcess {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	command.Args = append(command.Args, "-pport", port, "-log", path)
	// The listening line in the log may be an earlier broker's, and a test may rename the log.
	b := startLogged(t, command, constant("Broker: listening on "+address+"\n"))
	b.Log = file(path)
	bustest.Until(t, "the broker", func() bool {
		reply, err := b.Post("") // the broker listens before it opens the log
		select {
		case <-b.Ended:
			t.Fatalf("the broker has ended: %s", b.Stderr)
		default:
		}
		return err == nil && reply.Error == ""
	})
	return b
}

// starter starts a broker whose log is the file path.
type starter func(t *testing.T, path string, arguments ...string) *brokerProcess

// starters has the two ways to write the log to a file.
var starters = map[string]starter{
	"redirected": startInFile,
	"-log":       startStore,
}

// eachLog runs test with each of the starters, while other tests run.
func eachLog(t *testing.T, test func(t *testing.T, start starter)) {
	t.Parallel()
	for name, start := range starters {
		t.Run(name, func(t *testing.T) { test(t, start) })
	}
}
