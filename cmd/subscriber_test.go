//go:build unix

package cmd_test

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// consuming returns a consumer that is not started.
func consuming(arguments ...string) *exec.Cmd {
	return command("consumer", arguments...)
}

// consume runs a consumer to its end.
func consume(t *testing.T, arguments ...string) (status int, stdout, stderr string) {
	t.Helper()
	return finish(t, consuming(arguments...))
}

// delivers fails the test unless a consumer ends with status 0 and this output.
func delivers(t *testing.T, stdout string, arguments ...string) {
	t.Helper()
	status, got, stderr := consume(t, arguments...)
	if status != 0 || got != stdout || stderr != "" {
		t.Errorf("consumer %q: status %d, wrote %.300q, want %.300q, and said %s",
			arguments, status, got, stdout, stderr)
	}
}

// fails fails the test unless a consumer ends with this status, one line of standard
// error, and no output.
func fails(t *testing.T, status int, line string, arguments ...string) {
	t.Helper()
	got, stdout, stderr := consume(t, arguments...)
	if got != status || stderr != "consumer: "+line+"\n" || stdout != "" {
		t.Errorf("consumer %q: status %d, want %d, said %s, want %s, and wrote %q",
			arguments, got, status, stderr, line, stdout)
	}
}

// subscriber is a running consumer.
type subscriber struct {
	t              *testing.T
	command        *exec.Cmd
	stdout, stderr *bustest.Record
	ended          chan struct{}
}

// subscribe starts a consumer. At the end of the test it kills the consumer and its commands.
func subscribe(t *testing.T, arguments ...string) *subscriber {
	t.Helper()
	return subscribeWith(t, consuming(arguments...))
}

// subscribeWith starts a consumer whose standard output may be set.
func subscribeWith(t *testing.T, command *exec.Cmd) *subscriber {
	t.Helper()
	subscriber := &subscriber{t, command, &bustest.Record{}, &bustest.Record{}, make(chan struct{})}
	if command.Stdout == nil {
		command.Stdout = subscriber.stdout
	}
	command.Stderr = subscriber.stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		command.Wait()
		close(subscriber.ended)
	}()
	t.Cleanup(func() {
		syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		<-subscriber.ended
		if strings.Contains(subscriber.stderr.String(), "DATA RACE") {
			t.Errorf("the consumer has a data race:\n%s", subscriber.stderr)
		}
	})
	return subscriber
}

// signal sends a signal to the consumer alone.
func (subscriber *subscriber) signal(signal syscall.Signal) {
	subscriber.t.Helper()
	if err := subscriber.command.Process.Signal(signal); err != nil {
		subscriber.t.Fatal(err)
	}
}

// wait waits for the consumer's end and returns its exit status.
func (subscriber *subscriber) wait() int {
	subscriber.t.Helper()
	select {
	case <-subscriber.ended:
	case <-time.After(bustest.Patience):
		subscriber.t.Fatalf("the consumer did not end: %s", subscriber.stderr)
	}
	return subscriber.command.ProcessState.ExitCode()
}

// stop ends the consumer with SIGTERM. It fails the test if the consumer prints an error.
func (subscriber *subscriber) stop() {
	subscriber.t.Helper()
	subscriber.signal(syscall.SIGTERM)
	if status := subscriber.wait(); status != 0 || subscriber.stderr.String() != "" {
		subscriber.t.Errorf("after SIGTERM: status %d: %s", status, subscriber.stderr)
	}
}

// has waits until the consumer has written text, and nothing else.
func (subscriber *subscriber) has(text string) {
	subscriber.t.Helper()
	bustest.Until(subscriber.t, fmt.Sprintf("%q", text), func() bool {
		return subscriber.stdout.String() == text
	})
}
