// Package cmd_test runs the real commands as their users do.
//
// # The campaign of faults
//
// "make torture" runs the long form of these tests, and prints figures. On 2026-11-25, with 2
// virtual cores, no acknowledged message was lost, repeated, torn or out of order:
//
//	fault                                            messages   test
//	200 kills of the broker, -interval 0              846,187   TestKill
//	the same with -log                                747,709   TestKill
//	200 kills and 196 rotations of one log            551,156   TestKillsAndRotations
//	100 stops under load                              516,050   TestStop
//	50 rotations, -interval 0                       1,498,629   TestRotations
//	50 rotations, -interval 100ms                      81,005   TestRotations
//	50 rotations by logrotate, as shipped              58,603   TestLogrotate
//	50 rotations by logrotate, compressed              88,478   TestLogrotate
//	5 restarts during a stream of lines               837,365   TestRestarts
//	100 kills of the broker, a consumer follows       449,569   TestConsumerOfKilledBroker
//
// Of 86,114 messages that a consumer wrote while it was killed 200 times, none was missing. A
// busy consumer repeated the messages of 0.9 s at most. A consumer with a command was killed
// 200 times during 1,012 messages, and repeated at most one each time. Of 2,212 hostile payloads
// no reply was wrong. 10 million messages through -max-queued 32 MiB took at most 59 of the
// 184 MiB that the bound allows.
//
// # The benchmarks
//
// "make bench" measures mbus and a floor in turn, a program that does the least possible for the
// same work, so that the ratio does not depend on the machine. Messages have 128 bytes. The
// median ratios of rates, on the same day and machine:
//
//	accept 1,000 messages a payload, of a floor that reads and answers             0.60
//	accept a message a connection, of the same                                     1.00
//	accept 1,000 messages over 1,000 topics, of the same                           0.25
//	sustained to a file at -interval 100ms, of formatting with the log package     0.83
//	sustained at -interval 0, of that at 100ms                                     0.90
//	sustained at -interval 0 with -log, of that to a redirected file               0.95
//	1,000 messages a payload on disk, of appending and syncing payloads            0.70
//	a message a connection on disk, of the same                                    0.86
//	1,000 messages a payload on disk, of formatting and syncing                    1.04
//	a message a connection on disk, of the same                                    0.87
//	producer -lines, of accepting 1,000 messages a payload                         1.05
//	a consumer's time for a million messages, of cat's                             3.8
//	sed's time for the same, of the consumer's                                     52
//	a message a connection over a Unix socket, of that over TCP                    1.9
//
// A queued message takes 1.38 times its encoded size. A connection waits at most 1.6 ms longer
// during a drain of a million messages. The median latency from a producer's end to a consumer's
// line is 48 ms, and the 99th percentile 73 ms.
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
