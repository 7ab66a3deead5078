//go:build unix

package cmd_test

import (
	"fmt"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// stopSignals returns the signals that stop a command. SIGHUP is not among them if the test
// process ignores it, because the commands that a test starts inherit that.
func stopSignals(t *testing.T) []syscall.Signal {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}
	if signal.Ignored(syscall.SIGHUP) {
		t.Log("NOT TESTED with SIGHUP: this process ignores it, as under nohup")
		return signals
	}
	return append(signals, syscall.SIGHUP)
}

// signalName returns the name of a signal, such as SIGTERM.
func signalName(kind syscall.Signal) string {
	return map[syscall.Signal]string{
		syscall.SIGTERM: "SIGTERM", syscall.SIGINT: "SIGINT", syscall.SIGHUP: "SIGHUP",
	}[kind]
}

// expectStop fails the test unless a broker's log ends with three lines: the one that names the
// signal, a message with this data, and "Broker: stopped". Lines about refusals are left out.
func expectStop(t *testing.T, broker *brokerProcess, kind syscall.Signal, data string) {
	t.Helper()
	want := []string{
		"Broker: stopping: " + signalName(kind),
		"Received new message from topic 't': '" + data + "'",
		"Broker: stopped",
	}
	got := slices.DeleteFunc(bustest.Lines(t, broker.Log.String()), func(line string) bool {
		return strings.HasPrefix(line, "refused payload")
	})
	if !slices.Equal(got[max(0, len(got)-len(want)):], want) {
		t.Errorf("after %v the log is\n%s\nwant the last lines %q", kind, broker.Log, want)
	}
}

// After a first signal the broker drains its queues and ends with status 0.
func TestSignals(t *testing.T) {
	t.Parallel()
	for _, stop := range stopSignals(t) {
		broker := startBroker(t, "-interval", "1h")
		if status, stderr := broker.produce("t", stop.String()); status != 0 {
			t.Errorf("the producer ended with status %d: %s", status, stderr)
		}
		broker.Signal(stop)
		if status := broker.Wait(); status != 0 {
			t.Errorf("after %v the broker ended with status %d, want 0", stop, status)
		}
		expectStop(t, broker, stop, stop.String())
	}
}

// After a signal the producer finishes the payload in flight. It reports exactly the messages that
// the broker has accepted.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	for _, stop := range stopSignals(t) {
		broker := startInFile(t, filepath.Join(t.TempDir(), "log"))
		producer := bustest.Start(t, producerFor(broker.Address, &bustest.Endless{}, "-lines"))
		awaitStream(t, broker, 0)
		producer.Signal(stop)
		status, got := producer.Wait(), parseReport(t, producer.Stderr.String())
		reason := "not accepted: stopped by signal: " + signalName(stop)
		want := report{got.accepted, got.accepted + 1, 0, reason}
		if status != 1 || got != want {
			t.Errorf("the producer ended with status %d and reported %+v, want 1 and %+v",
				status, got, want)
		}
		logged := broker.stopAndReceive()
		if !slices.Equal(logged, bustest.Numbers(1, got.accepted)) {
			t.Errorf("the log has %d messages, want the %d that were accepted in order",
				len(logged), got.accepted)
		}
	}
}

// SIGHUP stops a producer that waits for input.
func TestHangupOfAProducer(t *testing.T) {
	t.Parallel()
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("this process ignores SIGHUP, as under nohup")
	}
	broker := startBroker(t)
	input, producer := startTyping(t, producerFor(broker.Address, nil, "-lines"))
	fmt.Fprintln(input, 1)
	awaitDispatched(t, broker, 1)
	producer.Signal(syscall.SIGHUP)
	status, got := producer.Wait(), parseReport(t, producer.Stderr.String())
	want := report{1, 2, 0, "not accepted: stopped by signal: SIGHUP"}
	if status != 1 || got != want {
		t.Errorf("the producer ended with status %d and reported %+v, want 1 and %+v",
			status, got, want)
	}
}

// SIGINT ends a producer of one message by its default action. Only then does Ctrl-C also end a
// shell's loop around the producer.
func TestInterruptOfALoop(t *testing.T) {
	t.Parallel()
	silent := bustest.Listen(t)
	producer := bustest.Start(t, producerFor(silent.Addr().String(), nil, "-message", "x"))
	connection, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	producer.Signal(syscall.SIGINT)
	expectKilled(t, producer, syscall.SIGINT)
}

// expectKilled waits for the end of a process. It fails the test unless this signal ended the
// process by its default action.
func expectKilled(t *testing.T, process *bustest.Process, kind syscall.Signal) {
	t.Helper()
	process.Wait()
	state := process.Command.ProcessState
	if status := state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != kind {
		t.Errorf("%q ended with %v, want %v", process.Command.Args, state, kind)
	}
}

// pairTime returns the time after a first signal in which further signals count as the same
// request to stop.
func pairTime(kind syscall.Signal) time.Duration {
	if kind == syscall.SIGHUP {
		return time.Second
	}
	return 200 * time.Millisecond
}

// signalUntilEnd sends a signal again and again until the process has ended. It fails the test if
// that is within pairTime, or if the signal's default action did not end the process.
func signalUntilEnd(t *testing.T, process *bustest.Process, kind syscall.Signal) {
	t.Helper()
	begin := time.Now()
	bustest.Until(t, "the end by "+kind.String(), func() bool {
		process.Command.Process.Signal(kind) // which may have ended
		select {
		case <-process.Ended:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	if took := time.Since(begin); took < pairTime(kind) {
		t.Errorf("%q ended after %s, want at least %s",
			process.Command.Args, took, pairTime(kind))
	}
	expectKilled(t, process, kind)
}

// A second signal, later than pairTime, ends a broker at once by its default action.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	for _, kind := range stopSignals(t) {
		broker := startBroker(t, "-timeout", "1h")
		broker.Dial().Put("\x82") // keeps the broker from stopping
		signalUntilEnd(t, broker.Process, kind)
	}
}

// A second signal, later than pairTime, ends a producer that waits for a reply.
func TestSecondSignalToAProducer(t *testing.T) {
	t.Parallel()
	silent := bustest.Listen(t)
	for _, kind := range stopSignals(t) {
		arguments := []string{"-message", "x"}
		if kind == syscall.SIGINT { // ends a producer of one message at the first signal
			arguments = []string{"-lines"}
		}
		producer := bustest.Start(t,
			producerFor(silent.Addr().String(), strings.NewReader("1\n"), arguments...))
		connection, err := silent.Accept() // the producer waits for a reply
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		signalUntilEnd(t, producer, kind)
	}
}

// A pair of signals is one request to stop, and loses nothing. timeout(1) sends SIGTERM twice,
// systemd sends SIGTERM and SIGHUP, and a closed terminal sends SIGHUP twice.
func TestSignalPairs(t *testing.T) {
	t.Parallel()
	pairs := [][2]syscall.Signal{
		{syscall.SIGTERM, syscall.SIGTERM}, {syscall.SIGINT, syscall.SIGTERM},
	}
	if len(stopSignals(t)) > len(pairs) {
		pairs = append(pairs, [2]syscall.Signal{syscall.SIGTERM, syscall.SIGHUP},
			[2]syscall.Signal{syscall.SIGHUP, syscall.SIGHUP})
	}
	for _, pair := range pairs {
		t.Run(fmt.Sprint(pair[0], " and ", pair[1]), func(t *testing.T) {
			for !stopsOnPair(t, pair[0], pair[1]) {
				t.Log("the second signal was late, trying again")
			}
		})
	}
}

// stopsOnPair stops a broker with two signals, and checks its status and its log. It returns false
// if the second signal was late, as on a busy machine.
func stopsOnPair(t *testing.T, first, second syscall.Signal) bool {
	t.Helper()
	broker := startBroker(t, "-interval", "1h", "-timeout", "1h")
	if status, stderr := broker.produce("t", "1"); status != 0 {
		t.Fatalf("the producer ended with status %d: %s", status, stderr)
	}
	stalled := broker.Dial() // delays the stop until it is closed
	stalled.Put("\x82")
	gap := pairTime(second) / 2 // the kernel merges two pending signals of one kind
	begin := time.Now()
	broker.Signal(first)
	time.Sleep(gap)
	if broker.Command.Process.Signal(second); time.Since(begin) > gap+gap/2 {
		return false
	}
	stalled.Close()
	if status := broker.Wait(); status != 0 {
		t.Errorf("the broker ended with status %d, want 0", status)
	}
	expectStop(t, broker, first, "1")
	return true
}

// A signal that a command ignores when it starts stays ignored. A script's background processes
// ignore SIGINT, and nohup ignores SIGHUP.
func TestIgnoredSignals(t *testing.T) {
	t.Parallel()
	for name, ignored := range map[string]syscall.Signal{
		"INT": syscall.SIGINT, "HUP": syscall.SIGHUP,
	} {
		script := fmt.Sprintf(`trap "" %s; exec "$0" "$@"`, name)
		ignoring := func(name string, arguments ...string) *exec.Cmd {
			arguments = append([]string{"-c", script, filepath.Join(binaries, name)}, arguments...)
			return exec.Command("sh", arguments...)
		}
		broker := startCommand(t, ignoring("broker", "-pport", "0"))
		input, producer := startTyping(t,
			ignoring("producer", "-port", broker.port, "-topic", "t", "-lines"))
		for i := range 2 {
			fmt.Fprintln(input, i)
			awaitDispatched(t, broker, i+1)
			broker.Signal(ignored)
			producer.Signal(ignored)
		}
		input.Close()
		if status := producer.Wait(); status != 0 {
			t.Errorf("with SIG%s ignored the producer ended with status %d: %s",
				name, status, producer.Stderr)
		}
		broker.stop()
	}
}
