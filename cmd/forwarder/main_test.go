//go:build unix

// Package main_test runs the real forwarder with a real nats-server.
//
// "make torture" runs the long form of these tests, which compares the stream with the log,
// message by message, and prints figures. "make bench" compares the forwarder with a loop of the
// client's PublishAsync.
package main_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mbus/internal/shared/bustest"
)

// forwarder is the path of the command under test.
var forwarder string

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "10") // the tests mostly wait
	binaries := bustest.Build(".")
	forwarder = filepath.Join(binaries, "forwarder")
	status := m.Run()
	os.RemoveAll(binaries)
	os.Exit(status)
}

// process is a command that a test has started.
type process struct {
	*bustest.Process
	t *testing.T
}

// start starts a command.
func start(t *testing.T, command *exec.Cmd) *process {
	t.Helper()
	return &process{bustest.Start(t, command), t}
}

// expect fails the test unless the process ends with status, and its standard error has each
// text of want. With status 0 and no want, standard error must be empty.
func (process *process) expect(status int, want ...string) {
	process.t.Helper()
	got, said := process.Wait(), process.Stderr.String()
	if got != status {
		process.t.Fatalf("status %d, want %d; it said:\n%s", got, status, said)
	}
	for _, text := range want {
		if !strings.Contains(said, text) {
			process.t.Errorf("it said:\n%s\nwant in it: %s", said, text)
		}
	}
	if status == 0 && len(want) == 0 && said != "" {
		process.t.Errorf("it said:\n%s", said)
	}
}

// stop sends SIGTERM to the process, and expects status 0 and want.
func (process *process) stop(want ...string) {
	process.t.Helper()
	process.Signal(syscall.SIGTERM)
	process.expect(0, want...)
}

// says waits until the standard error of the process has text.
func (process *process) says(text string) {
	process.t.Helper()
	bustest.Until(process.t, "the words "+text, func() bool {
		select {
		case <-process.Ended:
			process.t.Fatalf("it ended, and said:\n%s\nwant: %s", process.Stderr, text)
		default:
		}
		return strings.Contains(process.Stderr.String(), text)
	})
}
