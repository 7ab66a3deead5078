package cmd_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// skipWithoutHangup skips a test of SIGHUP where the processes that it starts inherit
// that the signal is ignored.
func skipWithoutHangup(t *testing.T) {
	t.Helper()
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored here, as by nohup")
	}
}

// signalPair sends two signals, the second after gap. It reports false if the second one
// was too late to belong to the first, because the machine was busy.
func signalPair(
	t *testing.T, process *os.Process, first, second syscall.Signal, gap time.Duration,
) bool {
	t.Helper()
	limit := 150 * time.Millisecond
	if second == syscall.SIGHUP {
		limit = 900 * time.Millisecond
	}
	begin := time.Now()
	if err := process.Signal(first); err != nil {
		t.Fatal(err)
	}
	time.Sleep(gap) // the kernel merges two pending signals of one kind
	if err := process.Signal(second); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin) < limit
}

// Signals that come in pairs are one request to stop, which loses nothing: timeout(1)
// sends two SIGTERMs, systemd SIGTERM and SIGHUP.
func TestSignalPairs(t *testing.T) {
	skipWithoutHangup(t)
	for _, test := range []struct {
		first, second syscall.Signal
		gap           time.Duration
	}{
		{syscall.SIGTERM, syscall.SIGTERM, 50 * time.Millisecond},
		{syscall.SIGINT, syscall.SIGTERM, 50 * time.Millisecond},
		{syscall.SIGTERM, syscall.SIGHUP, 500 * time.Millisecond},
	} {
		t.Run(fmt.Sprint(test.first, " and ", test.second), func(t *testing.T) {
			for !stopsOnPair(t, test.first, test.second, test.gap) {
				t.Log("the second signal was late; once more")
			}
		})
	}
}

// stopsOnPair stops a broker with two signals and checks its status and its log. It
// reports false if the second signal was late.
func stopsOnPair(t *testing.T, first, second syscall.Signal, gap time.Duration) bool {
	t.Helper()
	broker := startBroker(t, "-interval", "1h", "-timeout", "1h")
	if status, stderr := broker.send("t", "1"); status != 0 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	stalled, err := net.Dial("tcp", broker.address()) // delays the stop until it is closed
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if _, err := stalled.Write([]byte{0x82}); err != nil {
		t.Fatal(err)
	}
	if !signalPair(t, broker.command.Process, first, second, gap) {
		return false
	}
	stalled.Close()
	if status := broker.wait(); status != 0 {
		t.Errorf("%v", broker.command.ProcessState)
	}
	if !strings.HasSuffix(broker.log.String(), "Received new message from topic 't': '1'\n") {
		t.Errorf("the log is\n%s", broker.log)
	}
	return true
}

// SIGHUP stops a producer as SIGTERM does.
func TestHangupOfAProducer(t *testing.T) {
	skipWithoutHangup(t)
	broker := startBroker(t)
	command := producing(broker.address(), nil, "-lines")
	input, stderr := typing(t, command)
	fmt.Fprintln(input, 1)
	until(t, "the line", func() bool { return strings.Contains(broker.log.String(), "dispatched") })
	if err := command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	command.Wait()
	const want = "; from line 2 on: not accepted: stopped by signal: hangup\n"
	status := command.ProcessState.ExitCode()
	if status != 1 || !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("%v: %s", command.ProcessState, stderr)
	}
}

// SIGHUPs within a second are one request. A later one ends the process as if it had
// never been caught.
func TestSecondHangup(t *testing.T) {
	skipWithoutHangup(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	command := producing(mute.Addr().String(), nil, "-message", "x")
	started(t, command)
	ended := make(chan struct{})
	connection, err := mute.Accept() // from here on the producer waits for a reply
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	go func() {
		command.Wait()
		close(ended)
	}()
	begin := time.Now()
	until(t, "the producer's end", func() bool {
		command.Process.Signal(syscall.SIGHUP)
		select {
		case <-ended:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGHUP {
		t.Errorf("%v", command.ProcessState)
	}
	if took := time.Since(begin); took < time.Second {
		t.Errorf("it ended after %s", took)
	}
}

// A signal that was ignored at the start stays ignored: SIGINT in a script's background,
// SIGHUP by nohup.
func TestIgnoredSignals(t *testing.T) {
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "HUP": syscall.SIGHUP}
	for name, ignored := range signals {
		script := fmt.Sprintf(`trap "" %s; exec "$0" "$@"`, name)
		ignoring := func(name string, arguments ...string) *exec.Cmd {
			arguments = append([]string{"-c", script, filepath.Join(binaries, name)}, arguments...)
			return exec.Command("sh", arguments...)
		}
		broker := startCommand(t, ignoring("broker", "-pport", "0"))
		command := ignoring("producer", "-port", broker.port, "-topic", "t", "-lines")
		input, stderr := typing(t, command)
		for i := range 2 {
			fmt.Fprintln(input, i)
			until(t, "the line", func() bool {
				return strings.Count(broker.log.String(), "new message dispatched") == i+1
			})
			broker.signal(ignored)
			if err := command.Process.Signal(ignored); err != nil {
				t.Fatal(err)
			}
		}
		input.Close()
		if err := command.Wait(); err != nil {
			t.Errorf("SIG%s: the producer: %v: %s", name, err, stderr)
		}
		broker.signal(syscall.SIGTERM)
		if status := broker.wait(); status != 0 {
			t.Errorf("SIG%s: the broker: %v", name, broker.command.ProcessState)
		}
	}
}
