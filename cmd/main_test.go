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

// torture selects the long form of the campaign of faults and hostile input. make
// torture sets the variable; all other tests are the same in both forms.
var torture = os.Getenv("MBUS_TORTURE") != ""

// longOrShort returns the number for the form of the campaign that runs.
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
	// A program with the race detector sleeps before it exits, unless told not to.
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

// command returns one of the commands, not started.
func command(name string, arguments ...string) *exec.Cmd {
	return exec.Command(filepath.Join(binaries, name), arguments...)
}

// run runs one of the commands to its end.
func run(t *testing.T, name string, arguments ...string) (status int, stdout, stderr string) {
	t.Helper()
	return finish(t, command(name, arguments...))
}

// finish runs a command to its end, and kills it if it does not end. It returns
// what the command wrote to the outputs that it does not have already.
func finish(t *testing.T, command *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var output, complaints bytes.Buffer
	if command.Stdout == nil {
		command.Stdout = &output
	}
	if command.Stderr == nil {
		command.Stderr = &complaints
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(bustest.Patience, func() { command.Process.Kill() })
	defer timer.Stop()
	command.Wait()
	return command.ProcessState.ExitCode(), output.String(), complaints.String()
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
