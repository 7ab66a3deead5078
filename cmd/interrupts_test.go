//go:build unix

package cmd_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// A signal lets the payload in flight end, and the line about what was accepted is
// true.
func TestInterrupt(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		broker := startInFile(t, filepath.Join(t.TempDir(), "log"))
		producer := producerFor(broker.Address, &bustest.Endless{}, "-lines")
		stderr := start(t, producer)
		bustest.Until(t, "a message", func() bool {
			return strings.Contains(broker.Log.String(), "dispatched")
		})
		producer.Process.Signal(signal)
		producer.Wait()
		got := parseReport(t, stderr.String())
		reason := "not accepted: stopped by signal: " + signal.String()
		want := report{got.accepted, got.accepted + 1, 0, reason}
		if producer.ProcessState.ExitCode() != 1 || got != want {
			t.Errorf("%v: %+v, want %+v", producer.ProcessState, got, want)
		}
		logged := broker.drained()
		if !slices.Equal(logged, bustest.Numbers(1, got.accepted)) {
			t.Errorf("%d messages were accepted, %d are in the log, or in another order",
				got.accepted, len(logged))
		}
	}
}

// endedBy fails the test unless a command was ended by a signal.
func endedBy(t *testing.T, command *exec.Cmd, signal syscall.Signal) {
	t.Helper()
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != signal {
		t.Errorf("%q: %v", command.Args, command.ProcessState)
	}
}

// A second signal ends a producer that waits for a reply.
func TestSecondInterrupt(t *testing.T) {
	silent := bustest.Listen(t)
	for signal, arguments := range map[syscall.Signal][]string{
		syscall.SIGINT:  {"-lines"},
		syscall.SIGTERM: {"-message", "x"},
	} {
		producer := producerFor(silent.Addr().String(), strings.NewReader("1\n"), arguments...)
		start(t, producer)
		ended := make(chan struct{})
		go func() {
			producer.Wait()
			close(ended)
		}()
		connection, err := silent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		producer.Process.Signal(signal)
		time.Sleep(50 * time.Millisecond) // two that are pending at once are one
		producer.Process.Signal(signal)   // timeout(1) sends such a pair
		select {
		case <-ended:
			t.Errorf("%q: the first signals ended it: %v", arguments, producer.ProcessState)
		case <-time.After(500 * time.Millisecond):
		}
		producer.Process.Signal(signal)
		select {
		case <-ended:
		case <-time.After(bustest.Patience):
			t.Fatal("the second signal did not end it")
		}
		endedBy(t, producer, signal)
	}
}

// SIGINT ends a producer of one message as it ends any command, so that it ends a
// shell's loop around the producer.
func TestInterruptOfALoop(t *testing.T) {
	silent := bustest.Listen(t)
	producer := producerFor(silent.Addr().String(), nil, "-message", "x")
	start(t, producer)
	connection, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	producer.Process.Signal(syscall.SIGINT)
	producer.Wait()
	endedBy(t, producer, syscall.SIGINT)
}

// A shell starts the background commands of a script with SIGINT ignored. It stays
// ignored.
func TestIgnoredInterrupt(t *testing.T) {
	broker := startBroker(t)
	producer := exec.Command("sh", "-c", `trap "" INT; exec "$0" -port "$1" -topic t -lines`,
		filepath.Join(binaries, "producer"), broker.port)
	input, _ := startTyping(t, producer)
	for i := range 2 {
		fmt.Fprintln(input, i)
		awaitDispatched(t, broker, i+1)
		producer.Process.Signal(syscall.SIGINT)
	}
	input.Close()
	if err := producer.Wait(); err != nil {
		t.Error(err)
	}
}
