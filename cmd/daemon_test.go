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

// daemon is a running broker.
type daemon struct {
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
func startBroker(t *testing.T, arguments ...string) *daemon {
	t.Helper()
	return startCommand(t, brokerCommand(arguments...))
}

// startAt starts a broker on the port of address.
func startAt(t *testing.T, address string, arguments ...string) *daemon {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	return startBroker(t, append([]string{"-pport", port}, arguments...)...)
}

// startCommand is like startBroker, for a command that runs a broker.
func startCommand(t *testing.T, command *exec.Cmd) *daemon {
	t.Helper()
	log := &bustest.Record{}
	command.Stderr = log
	return startLogged(t, command, log)
}

// startInFile starts a broker whose standard error, which is its log, is appended to the file
// path.
func startInFile(t *testing.T, path string, arguments ...string) *daemon {
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

func (path file) String() string {
	text, _ := os.ReadFile(string(path))
	return string(text)
}

// constant replaces a log that the test can't read. Its text is the listening line that the test
// expects the broker to write.
type constant string

func (text constant) String() string { return string(text) }

// startOnDevice starts a broker whose log is the device path. It skips the test if the device can't
// be opened.
func startOnDevice(t *testing.T, path string, arguments ...string) *daemon {
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
func startInPipe(t *testing.T, arguments ...string) (*daemon, *pipe) {
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
func (log *pipe) readHead() {
	one := make([]byte, 1)
	for !listeningLine.MatchString(log.String()) {
		if _, err := log.reader.Read(one); err != nil {
			return
		}
		log.Write(one)
	}
}

// readRest reads the pipe to its end. Each read takes at most size bytes, and a pause follows.
func (log *pipe) readRest(t *testing.T, size int, pause time.Duration) {
	t.Helper()
	buffer := make([]byte, size)
	for {
		count, err := log.reader.Read(buffer)
		log.Write(buffer[:count])
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
func startLogged(t *testing.T, command *exec.Cmd, log fmt.Stringer) *daemon {
	t.Helper()
	daemon := &daemon{Process: bustest.Start(t, command), t: t}
	t.Cleanup(func() {
		daemon.Kill()
		if text := log.String(); strings.Contains(text, "DATA RACE") {
			t.Errorf("the broker has a data race:\n%s", text)
		}
	})
	var line []string
	bustest.Until(t, "the listening line", func() bool {
		line = listeningLine.FindStringSubmatch(log.String())
		return line != nil
	})
	daemon.Client = bustest.NewClient(t, line[1], log)
	daemon.host, daemon.port, _ = net.SplitHostPort(line[1])
	return daemon
}

// produce runs a producer that sends one message to this broker.
func (daemon *daemon) produce(topic, message string) (status int, stderr string) {
	daemon.t.Helper()
	status, _, stderr = run(daemon.t, "producer",
		"-port", daemon.port, "-topic", topic, "-message", message)
	return status, stderr
}

// sender returns a producer that sends to this broker from the test's own process.
func (daemon *daemon) sender() *producer.Producer {
	daemon.t.Helper()
	config := producer.DefaultConfig()
	config.Host, config.Port = daemon.host, daemon.port
	sender, err := producer.New(config)
	if err != nil {
		daemon.t.Fatal(err)
	}
	return sender
}

// fill sends the payloads in turn until the broker's queue is full. It returns how many
// payloads were accepted.
func (daemon *daemon) fill(payloads ...string) int {
	daemon.t.Helper()
	for count := 0; ; count++ {
		reply := daemon.Send(payloads[count%len(payloads)])
		if reply.Error == "queue is full" {
			return count
		}
		if reply.Error != "" {
			daemon.t.Fatal(reply.Error)
		}
	}
}

// isBusy reports whether the broker serves another connection: it does not answer an empty
// payload within 200 ms.
func (daemon *daemon) isBusy() bool {
	daemon.t.Helper()
	connection := daemon.Dial()
	defer connection.Close()
	connection.End("")
	connection.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, err := connection.Read(make([]byte, 1))
	return os.IsTimeout(err)
}

// stop stops the broker with SIGTERM. It fails the test unless the status is 0.
func (daemon *daemon) stop() {
	daemon.t.Helper()
	daemon.Signal(syscall.SIGTERM)
	if status := daemon.Wait(); status != 0 {
		daemon.t.Fatalf("the broker ended with status %d, the log is\n%.2000s", status, daemon.Log)
	}
}

// stopAndReceive stops the broker, and returns the messages on the topic t in its log.
func (daemon *daemon) stopAndReceive() []string {
	daemon.t.Helper()
	daemon.stop()
	return daemon.Received("t")
}

// startStore starts a broker with the flag -log path, on a free port. Its log is the file, not its
// standard error.
func startStore(t *testing.T, path string, arguments ...string) *daemon {
	t.Helper()
	return startStoreAt(t, bustest.FreeAddress(t), path, arguments...)
}

// startStoreAt is like startStore, on the port of address.
func startStoreAt(t *testing.T, address, path string, arguments ...string) *daemon {
	t.Helper()
	return startStoreCommand(t, address, path, command("broker", arguments...))
}

// startStoreCommand is like startStoreAt, for a command that runs a broker. It appends the flags
// for the port and the log.
func startStoreCommand(t *testing.T, address, path string, command *exec.Cmd) *daemon {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	command.Args = append(command.Args, "-pport", port, "-log", path)
	// The listening line in the log may be an earlier broker's, and a test may rename the log.
	daemon := startLogged(t, command, constant("Broker: listening on "+address+"\n"))
	daemon.Log = file(path)
	bustest.Until(t, "the broker", func() bool {
		reply, err := daemon.Post("") // the broker listens before it opens the log
		select {
		case <-daemon.Ended:
			t.Fatalf("the broker has ended: %s", daemon.Stderr)
		default:
		}
		return err == nil && reply.Error == ""
	})
	return daemon
}

// starter starts a broker whose log is the file path.
type starter func(t *testing.T, path string, arguments ...string) *daemon

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
