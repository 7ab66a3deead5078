// Package cmd_test runs the real commands as their users do.
//
// "make torture" runs the long form of these tests, and prints figures: a line of each campaign
// begins with "figure:". "make bench" measures mbus and a floor in turn, and prints the ratios. A
// floor is a program that does the least possible for the same work, so the ratio hardly depends
// on the machine.
package cmd_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"mbus/internal/shared/bustest"
)

// binaries is the directory with the commands under test.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "6") // the tests mostly wait
	binaries = bustest.Build("mbus/cmd/broker", "mbus/cmd/producer", "mbus/cmd/consumer")
	status := m.Run()
	os.RemoveAll(binaries)
	os.Exit(status)
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

// finish runs a command until it ends: see bustest.Run.
func finish(t *testing.T, command *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	return bustest.Run(t, command)
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
