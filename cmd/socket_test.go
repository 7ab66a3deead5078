//go:build unix

package cmd_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/address"
	"mbus/internal/shared/bustest"
)

// socketPath returns a path for a Unix socket in a directory of its own. The directories of
// testing.T have names that are too long on some systems.
func socketPath(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "mbus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return filepath.Join(directory, "mbus.sock")
}

// startOnSocket starts a broker on the Unix socket at path.
func startOnSocket(t *testing.T, path string, arguments ...string) *brokerProcess {
	t.Helper()
	return startCommand(t, command("broker", append([]string{"-phost", path}, arguments...)...))
}

// leaveSocket makes a socket at path that nobody answers at.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
}

// On a path the broker serves as on a port. Its log names the path, and the process and user of a
// producer that it refuses. When it stops, the path goes.
func TestSocket(t *testing.T) {
	path := socketPath(t)
	leaveSocket(t, path)
	broker := startOnSocket(t, path, "-interval", "10ms")
	broker.Expect("Broker: listening on " + path)
	producer := command("producer", "-host", path, "-topic", "t", "-message", "1")
	if status, _, stderr := finish(t, producer); status != 0 || stderr != "" {
		t.Errorf("the producer ended with status %d: %s", status, stderr)
	}
	producer = command("producer", "-host", path, "-topic", "t", "-lines")
	producer.Stdin = strings.NewReader("2\n3\n")
	if status, _, stderr := finish(t, producer); status != 0 {
		t.Errorf("the producer of lines ended with status %d: %s", status, stderr)
	}
	peer := "a local process"
	if runtime.GOOS == "linux" {
		peer = fmt.Sprintf("pid %d uid %d", os.Getpid(), os.Getuid())
	}
	const nil1 = "message 1: is nil, must be a map of Topic and Data"
	if reply := broker.Send("\xc0"); reply.Error != nil1 {
		t.Errorf("the reply is %+v", reply)
	}
	broker.Expect("refused payload from " + peer + ": " + nil1)
	if messages := broker.stopAndReceive(); !slices.Equal(messages, bustest.Numbers(1, 3)) {
		t.Errorf("the messages in the log are %q, want 1 to 3", messages)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after the stop there is a socket: %v", err)
	}
	expect(t, 1, "producer: "+path+": not accepted: connect: no such file or directory\n",
		"producer", "-host", path, "-topic", "t", "-message", "4")
}

// The manual page's commands start a broker on which its user and group can send.
func TestManualSocket(t *testing.T) {
	commands := manualDisplays(t, "mbus-broker.8", "UNIX SOCKETS", 1)[0]
	built := filepath.Join(binaries, "broker")
	commands = strings.Replace(commands, "mbus-broker", "exec "+built, 1)
	broker := exec.Command("sh", "-e", "-c", commands)
	broker.Dir = filepath.Dir(socketPath(t))
	b := startLogged(t, broker, file(filepath.Join(broker.Dir, "mbus.log")))
	info, err := os.Lstat(filepath.Join(broker.Dir, "mbus.sock"))
	if err != nil || info.Mode() != os.ModeSocket|0o770 {
		t.Errorf("the socket's mode is %v, %v, want 0770", info.Mode(), err)
	}
	b.stop()
}

// A broker that stops removes its own socket only.
func TestSocketOfAnotherBroker(t *testing.T) {
	path := socketPath(t)
	first := startOnSocket(t, path)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	second := startOnSocket(t, path)
	first.stop()
	second.Accept(bustest.Payload("t", "1"), 1)
	second.stop()
}

// A producer whose connection waits while the broker stops is served. A later one is refused by the
// kernel, and has sent nothing.
func TestSocketStop(t *testing.T) {
	path := socketPath(t)
	broker := startOnSocket(t, path, "-timeout", "1m")
	inHand := broker.Dial()
	inHand.Put(bustest.Payload("t", "1")[:5])
	waiting := broker.Dial()
	waiting.End(bustest.Payload("t", "2"))
	if err := os.Link(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	broker.Signal(syscall.SIGTERM)
	bustest.Until(t, "the end of the path", func() bool {
		_, err := os.Lstat(path)
		return os.IsNotExist(err)
	})
	if runtime.GOOS == "linux" {
		bustest.Until(t, "a refusal by the kernel", func() bool {
			connection, err := net.Dial("unix", path+".link")
			if err == nil {
				connection.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	}
	inHand.End(bustest.Payload("t", "1")[5:])
	for _, connection := range []*bustest.Conn{inHand, waiting} {
		if reply := connection.Reply(); reply.Accepted != 1 {
			t.Errorf("the reply is %+v", reply)
		}
	}
	if status := broker.Wait(); status != 0 {
		t.Errorf("the broker ended with status %d", status)
	}
	if log := broker.Log.String(); strings.Contains(log, "can't accept") {
		t.Errorf("the log has an error of the listener:\n%s", log)
	}
	if got := broker.Received("t"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("the messages in the log are %q, want 1 and 2", got)
	}
}

// What is no path of a free socket is an error in one line, and left as it is.
func TestSocketRefused(t *testing.T) {
	path := socketPath(t)
	directory := filepath.Dir(path)
	text, missing := filepath.Join(directory, "text"), filepath.Join(directory, "missing/s")
	if err := os.WriteFile(text, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := startOnSocket(t, path, "-interval", "10ms")
	refuse := func(path, line string) {
		t.Helper()
		expect(t, 1, "broker: listen on "+path+": "+line+"\n", "broker", "-phost", path)
	}
	refuse(path, "in use by another broker")
	refuse(text, "is not a socket, it was left as it is")
	refuse(missing, "open "+filepath.Dir(missing)+": no such file or directory")
	if got := file(text).String(); got != "text" {
		t.Errorf("the file has %q", got)
	}
	broker.Accept(bustest.Payload("t", "1"), 1)
	broker.stop()
}

// Both commands refuse a path that is too long, a URL, and a port beside a path.
func TestSocketMisuse(t *testing.T) {
	long := "/" + strings.Repeat("x", address.MaxPath)
	for host, line := range map[string]string{
		long: fmt.Sprintf("must be at most %d bytes long, is %d",
			address.MaxPath, len(long)),
		"unix:///run/mbus.sock": "must be a host alone, or the path of a socket, and not a URL",
	} {
		line := fmt.Sprintf("host %q: %s", host, line)
		expect(t, 2, "broker: -p"+line+" (see broker -h)\n", "broker", "-phost", host)
		expectMisuse(t, "-"+line, "-topic", "t", "-host", host)
	}
	expect(t, 2, "broker: -pport: must be without it, because -phost is a path (see broker -h)\n",
		"broker", "-phost", "/s", "-pport", "9990")
	expectMisuse(t, "-port: must be without it, because -host is a path",
		"-topic", "t", "-host", "/s", "-port", "9990")
}

// A leading @ is part of a file's name, and brackets are no part of an address.
func TestSocketNames(t *testing.T) {
	directory := filepath.Dir(socketPath(t))
	if err := os.Mkdir(filepath.Join(directory, "@"), 0o700); err != nil {
		t.Fatal(err)
	}
	onFile := command("broker", "-phost", "@/s", "-interval", "0")
	onFile.Dir = directory
	broker := startCommand(t, onFile)
	producer := command("producer", "-host", "@/s", "-topic", "t", "-message", "1")
	producer.Dir = directory
	if status, _, stderr := finish(t, producer); status != 0 {
		t.Errorf("the producer ended with status %d: %s", status, stderr)
	}
	if _, err := os.Lstat(filepath.Join(directory, "@/s")); err != nil {
		t.Error(err)
	}
	broker.stop()
	if listener, err := net.Listen("tcp", "[::1]:0"); err == nil {
		listener.Close()
		broker := startBroker(t, "-phost", "[::1]")
		expect(t, 0, "", "producer", "-host", "[::1]", "-port", broker.port, "-topic", "t",
			"-message", "1")
		broker.stop()
	}
}

// Of brokers that start at once on the socket that a killed one has left, one serves, and each
// other ends with one line.
func TestSocketRace(t *testing.T) {
	const brokers = 4
	path := socketPath(t)
	for range bustest.LongOrShort(200, 20) {
		leaveSocket(t, path)
		var running sync.WaitGroup
		var refused atomic.Int32
		var commands []*exec.Cmd
		for range brokers {
			broker := command("broker", "-phost", path)
			stderr := &bustest.Record{}
			broker.Stderr = stderr
			if err := broker.Start(); err != nil {
				t.Fatal(err)
			}
			commands = append(commands, broker)
			running.Go(func() {
				broker.Wait()
				if broker.ProcessState.ExitCode() != 1 {
					return
				}
				want := "broker: listen on " + path + ": in use by another broker\n"
				if stderr.String() != want {
					t.Errorf("a broker says %q, want %q", stderr, want)
				}
				refused.Add(1)
			})
		}
		bustest.Until(t, "the end of all brokers but one", func() bool {
			return refused.Load() >= brokers-1
		})
		expect(t, 0, "", "producer", "-host", path, "-topic", "t", "-message", "x")
		for _, broker := range commands {
			broker.Process.Kill()
		}
		running.Wait()
		if refused.Load() != brokers-1 {
			t.Fatalf("%d of %d brokers did not start", refused.Load(), brokers)
		}
		os.Remove(path)
	}
}

// The socket's mode is that of the umask. A user who may not write it can't send.
func TestSocketUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can run programs as other users")
	}
	const mbus, send, member, other = 61001, 61004, 61005, 61006 // ids that no user has
	path := socketPath(t)
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Dir(path), mbus, mbus); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(binaries, 0o755); err != nil {
		t.Fatal(err)
	}
	asUser := func(command *exec.Cmd, user, group uint32) *exec.Cmd {
		command.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: user, Gid: group},
		}
		return command
	}
	const script = `umask 007; exec "$0" -interval 10ms -phost "$1"`
	broker := startCommand(t, asUser(
		exec.Command("sh", "-c", script, filepath.Join(binaries, "broker"), path), mbus, send))
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o770 {
		t.Errorf("the socket's mode is %v, %v, want 0770", info.Mode(), err)
	}
	for group, want := range map[uint32]int{send: 0, other: 1} {
		producer := command("producer", "-host", path, "-topic", "t", "-message", fmt.Sprint(group))
		status, _, stderr := finish(t, asUser(producer, member, group))
		if status != want || want == 1 && !strings.Contains(stderr, "connect: permission denied") {
			t.Errorf("in group %d the producer ended with status %d: %s", group, status, stderr)
		}
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, []string{fmt.Sprint(send)}) {
		t.Errorf("the messages in the log are %q, want that of the member", got)
	}
}

// While a broker on a path is stopped and started again, producers that retry lose and double
// nothing.
func TestSocketRestarts(t *testing.T) {
	const producers = 4
	path, log := socketPath(t), filepath.Join(t.TempDir(), "log")
	begin := func() *brokerProcess {
		broker := command("broker", "-phost", path, "-log", log, "-interval", "10ms")
		before := strings.Count(file(log).String(), "listening on")
		b := &brokerProcess{t: t, Process: bustest.Start(t, broker),
			Client: bustest.NewClient(t, path, file(log))}
		bustest.Until(t, "the listening line", func() bool {
			return strings.Count(file(log).String(), "listening on") > before
		})
		return b
	}
	broker := begin()
	var running sync.WaitGroup
	var over atomic.Bool
	var accepted [producers]int
	for i := range producers {
		running.Go(func() {
			for !over.Load() {
				output, err := command("producer", "-host", path, "-topic", fmt.Sprint("t", i),
					"-retry", "1m", "-message", fmt.Sprint(accepted[i]+1)).CombinedOutput()
				if err != nil {
					t.Errorf("a producer: %v: %s", err, output)
					return
				}
				accepted[i]++
			}
		})
	}
	for range bustest.LongOrShort(300, 20) {
		time.Sleep(50 * time.Millisecond) // for the load
		broker.stop()
		broker = begin()
	}
	over.Store(true)
	running.Wait()
	broker.stop()
	for i, count := range accepted {
		got := broker.Received(fmt.Sprint("t", i))
		if !slices.Equal(got, bustest.Numbers(1, count)) {
			t.Errorf("the log has %d messages of producer %d, want %d in order", len(got), i, count)
		}
	}
	t.Logf("%d messages accepted", accepted)
}
