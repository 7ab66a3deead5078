//go:build unix

package cmd_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"syscall"
	"testing"

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

// anyID matches the id of a message.
var anyID = regexp.MustCompile(`\b[0-9a-f]{16}-\d+-\d+-[0-9a-f]{8}\b`)

// withoutIDs returns text with ID in the place of each id of a message.
func withoutIDs(text string) string {
	return anyID.ReplaceAllString(text, "ID")
}

// fails fails the test unless a consumer ends with this status, one line of standard
// error, and no output. In the line, the word ID is in the place of a message's id.
func fails(t *testing.T, status int, line string, arguments ...string) {
	t.Helper()
	got, stdout, stderr := consume(t, arguments...)
	if got != status || withoutIDs(stderr) != "consumer: "+line+"\n" || stdout != "" {
		t.Errorf("consumer %q: status %d, want %d, said %s, want %s, and wrote %q",
			arguments, got, status, stderr, line, stdout)
	}
}

// consumerProcess is a running consumer.
type consumerProcess struct {
	*bustest.Process
	t *testing.T
}

// startConsumer starts a consumer.
func startConsumer(t *testing.T, arguments ...string) *consumerProcess {
	t.Helper()
	return startConsumerCommand(t, consuming(arguments...))
}

// startConsumerCommand starts a consumer whose standard output may be redirected.
func startConsumerCommand(t *testing.T, command *exec.Cmd) *consumerProcess {
	t.Helper()
	return &consumerProcess{startGroup(t, command), t}
}

// startGroup starts a command in a process group of its own. When the test ends, it kills the
// command with all processes that the command has started.
func startGroup(t *testing.T, command *exec.Cmd) *bustest.Process {
	t.Helper()
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	process := bustest.Start(t, command)
	t.Cleanup(func() { syscall.Kill(-command.Process.Pid, syscall.SIGKILL) })
	return process
}

// stop ends the consumer with SIGTERM. It fails the test if the consumer prints an error.
func (c *consumerProcess) stop() {
	c.t.Helper()
	c.Signal(syscall.SIGTERM)
	if status := c.Wait(); status != 0 || c.Stderr.String() != "" {
		c.t.Errorf("after SIGTERM: status %d: %s", status, c.Stderr)
	}
}

// has waits until the consumer has written text, and nothing else.
func (c *consumerProcess) has(text string) {
	c.t.Helper()
	bustest.Until(c.t, fmt.Sprintf("%q", text), func() bool {
		return c.Stdout.String() == text
	})
}
