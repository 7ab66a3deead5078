//go:build unix

package cmd_test

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// With NOTIFY_SOCKET, the broker says that it is ready once it listens and its log is open. It says
// that it is stopping when a signal comes. A socket that is missing does no harm.
func TestReadiness(t *testing.T) {
	names := []string{socketPath(t)}
	if runtime.GOOS == "linux" {
		names = append(names, "@"+names[0])
	}
	for _, name := range names {
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close()
		manager.SetReadDeadline(time.Now().Add(bustest.Patience))
		expectState := func(want string) {
			t.Helper()
			state := make([]byte, 100)
			count, err := manager.Read(state)
			if got := string(state[:count]); got != want || err != nil {
				t.Errorf("on %s the state is %q, %v, want %q", name, got, err, want)
			}
		}
		path, log := socketPath(t), file(filepath.Join(t.TempDir(), "log"))
		broker := command("broker", "-phost", path, "-log", string(log), "-timeout", "1m")
		broker.Env = append(os.Environ(), "NOTIFY_SOCKET="+name)
		running := bustest.Start(t, broker)
		expectState("READY=1")
		client := bustest.NewClient(t, path, log) // no polling: it listens
		client.Accept(bustest.Payload("t", "1"), 1)
		if _, err := os.Stat(string(log)); err != nil {
			t.Error(err)
		}
		inHand := client.Dial()
		inHand.Put(bustest.Payload("t", "2")[:5])
		running.Signal(syscall.SIGTERM)
		expectState("STOPPING=1")
		inHand.End(bustest.Payload("t", "2")[5:])
		if status := running.Wait(); status != 0 {
			t.Errorf("status %d: %s", status, running.Stderr)
		}
	}
	broker := brokerCommand()
	broker.Env = append(os.Environ(), "NOTIFY_SOCKET=/missing/socket")
	startCommand(t, broker).stop()
}

// Without -log, a broker with a closed standard error does not start: its log would go nowhere.
func TestClosedStandardError(t *testing.T) {
	const line = "broker: standard error, which is the log, is closed (or is /dev/null, opened " +
		"for reading too): must be open for writing, or use -log\n"
	script := func(redirection string) *exec.Cmd {
		return exec.Command("sh", "-c", `exec "$0" -pport 0 `+redirection,
			filepath.Join(binaries, "broker"))
	}
	for _, redirection := range []string{"2>&-", "2<>/dev/null"} {
		if status, stdout, _ := finish(t, script(redirection)); status != 1 || stdout != line {
			t.Errorf("with %s the broker ended with status %d: %q", redirection, status, stdout)
		}
	}
	log := file(filepath.Join(t.TempDir(), "log"))
	startLogged(t, script("2>&- -log "+string(log)), log).stop()
	address := bustest.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	quiet := script("-pport " + port + " 2>/dev/null")
	bustest.Start(t, quiet)
	expect(t, 0, "", "producer", "-port", port, "-topic", "t", "-message", "x", "-retry", "20s")
}

// crashing returns a command that leaves no core.
func crashing(name string, arguments ...string) *exec.Cmd {
	const script = `ulimit -c 0; exec "$0" "$@"`
	return exec.Command("sh",
		append([]string{"-c", script, filepath.Join(binaries, name)}, arguments...)...)
}

// A crash is SIGABRT, and not status 2, which is wrong usage. SIGQUIT makes a program in Go crash.
func TestCrash(t *testing.T) {
	expectCrash := func(process *bustest.Process) {
		t.Helper()
		process.Signal(syscall.SIGQUIT)
		process.Wait()
		state := process.Command.ProcessState
		status := state.Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.Signal() != syscall.SIGABRT {
			t.Errorf("%q ended with %v, want SIGABRT", process.Command.Args, state)
		}
	}
	broker := startCommand(t, crashing("broker", "-pport", "0"))
	expectCrash(broker.Process)

	listener := bustest.Listen(t)
	listener.SetDeadline(time.Now().Add(bustest.Patience))
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	producer := bustest.Start(t, crashing("producer", "-ping", "-port", port))
	connection, err := listener.Accept() // the producer waits for a reply
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	expectCrash(producer)

	consumer := crashing("consumer")
	input, err := consumer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	reader := startConsumerCommand(t, consumer)
	io.WriteString(input, "2026/11/29 07:00:00 Received new message from topic 't': 'x'\n")
	reader.has("x\n")
	expectCrash(reader.Process)
}

// deadTunnel takes what a producer sends and closes without an answer, as the near end of a tunnel
// does whose far end is away. It returns its port, and a channel with an element for each
// connection.
func deadTunnel(t *testing.T) (port string, connections <-chan int) {
	t.Helper()
	listener, served := bustest.Listen(t), make(chan int, 1000)
	go func() {
		for count := 1; ; count++ {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			io.Copy(io.Discard, connection)
			connection.Close()
			served <- count
		}
	}()
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port, served
}

// Through a tunnel whose far end is away, a producer retries only with -at-least-once. Once an
// attempt may have been accepted, giving up is status 3.
func TestAtLeastOnce(t *testing.T) {
	port, connections := deadTunnel(t)
	message := []string{"-port", port, "-topic", "t", "-message", "x", "-retry"}
	unknown := "producer: 127.0.0.1:" + port + ": outcome unknown, sending again may duplicate: " +
		"the connection ended without a reply\n"
	expect(t, 3, unknown, "producer", append(message, "1h")...)
	if got := len(connections); got != 1 {
		t.Errorf("without -at-least-once the producer tried %d times", got)
	}
	expect(t, 3, unknown, "producer", append(message, "500ms", "-at-least-once")...)
	if got := len(connections); got < 3 {
		t.Errorf("with -at-least-once the producer tried %d times", got-1)
	}
	expectMisuse(t, "-at-least-once without -retry: must be with the time to retry",
		"-topic", "t", "-at-least-once")
	expectMisuse(t, "-ping: must be without -topic, -message, -lines and -at-least-once",
		"-ping", "-retry", "1s", "-at-least-once")
}

// The lines of a producer with -at-least-once arrive in order, though its first attempts vanish.
func TestAtLeastOnceArrives(t *testing.T) {
	path := socketPath(t)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetDeadline(time.Now().Add(bustest.Patience))
	producer := command("producer", "-host", path, "-topic", "t", "-lines", "-retry", "1h",
		"-at-least-once")
	producer.Stdin = strings.NewReader("1\n2\n3\n")
	running := bustest.Start(t, producer)
	for range 2 {
		connection, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, connection)
		connection.Close()
	}
	listener.Close()
	broker := startOnSocket(t, path)
	if status := running.Wait(); status != 0 {
		t.Errorf("status %d: %s", status, running.Stderr)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, bustest.Numbers(1, 3)) {
		t.Errorf("the messages in the log are %q, want 1 to 3", got)
	}
}

// A command that is started while "make install" replaces it is the old or the new one. "make
// install" makes /etc/mbus.
func TestInstallUnderLoad(t *testing.T) {
	release := newRelease(t, "broker", "producer", "consumer")
	release.mustMake("install")
	path := release.path("dest/usr/local/bin/mbus-producer")
	over, ended := make(chan struct{}), make(chan int)
	go func() {
		count := 0
		for ; !isClosed(over); count++ {
			if output, err := exec.Command(path, "-version").CombinedOutput(); err != nil {
				t.Errorf("start %d failed: %v: %s", count, err, output)
				break
			}
		}
		ended <- count
	}()
	for range bustest.LongOrShort(100, 10) {
		release.mustMake("install")
	}
	close(over)
	t.Logf("%d starts", <-ended)
	if runtime.GOOS != "linux" {
		return
	}
	if info, err := os.Stat(release.path("dest/etc/mbus")); err != nil || !info.IsDir() {
		t.Errorf("there is no /etc/mbus: %v", err)
	}
	release.mustMake("uninstall")
	if _, err := os.Stat(release.path("dest/etc/mbus")); !os.IsNotExist(err) {
		t.Errorf("after make uninstall there is an empty /etc/mbus: %v", err)
	}
}

// Any user can run "make install" with DESTDIR.
func TestInstallAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the other tests of make install run as a user")
	}
	const user = 61007 // an id that no user has
	release := newRelease(t, "broker", "producer", "consumer")
	for _, directory := range []string{filepath.Dir(release.directory), release.directory} {
		if err := os.Chmod(directory, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(release.directory, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, user, user))
	})
	if err != nil {
		t.Fatal(err)
	}
	install := exec.Command("make", "install", "DESTDIR="+release.path("dest"))
	install.Dir = release.directory
	install.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: user, Gid: user},
	}
	if status, _, stderr := finish(t, install); status != 0 || stderr != "" {
		t.Errorf("make install ended with status %d: %s", status, stderr)
	}
}
