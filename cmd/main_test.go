// Package cmd_test runs the real commands as their users do.
package cmd_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// binaries is the directory with the commands under test.
var binaries string

// torture selects the long form of the tests with faults and hostile input. "make torture"
// sets the environment variable. All other tests are the same in both forms.
var torture = os.Getenv("MBUS_TORTURE") != ""

// longOrShort returns long in the long form of the tests, and short otherwise.
func longOrShort(long, short int) int {
	if torture {
		return long
	}
	return short
}

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	// By default a program with the race detector sleeps for a second before it exits.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	var err error
	if binaries, err = os.MkdirTemp("", "mbus"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	arguments := append([]string{"build", "-o", binaries}, buildFlags...)
	arguments = append(arguments, "mbus/cmd/broker", "mbus/cmd/producer", "mbus/cmd/consumer")
	if output, err := exec.Command("go", arguments...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// command returns one of the commands under test. It is not started.
func command(name string, arguments ...string) *exec.Cmd {
	return exec.Command(filepath.Join(binaries, name), arguments...)
}

// run runs one of the commands under test until it ends.
func run(t *testing.T, name string, arguments ...string) (status int, stdout, stderr string) {
	t.Helper()
	return finish(t, command(name, arguments...))
}

// finish runs a command until it ends. After bustest.Patience it kills the command. It returns
// what the command wrote to standard output and to standard error; an output that the caller
// has redirected is returned empty.
func finish(t *testing.T, command *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var output, errorOutput bytes.Buffer
	if command.Stdout == nil {
		command.Stdout = &output
	}
	if command.Stderr == nil {
		command.Stderr = &errorOutput
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(bustest.Patience, func() { command.Process.Kill() })
	defer timer.Stop()
	command.Wait()
	return command.ProcessState.ExitCode(), output.String(), errorOutput.String()
}

// awaitEnd waits for a started command in the background. The channel is closed once the
// command has ended.
func awaitEnd(command *exec.Cmd) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		command.Wait()
		close(ended)
	}()
	return ended
}

// expect fails the test unless a command ends with status, with exactly stderr on
// standard error, and with nothing on standard output.
func expect(t *testing.T, status int, stderr string, name string, arguments ...string) {
	t.Helper()
	gotStatus, gotStdout, gotStderr := run(t, name, arguments...)
	if gotStatus != status || gotStderr != stderr || gotStdout != "" {
		t.Errorf("%s %q: status %d, standard error:\n%sstandard output:\n%s\n"+
			"want status %d, standard error:\n%s",
			name, arguments, gotStatus, gotStderr, gotStdout, status, stderr)
	}
}
