//go:build unix

// Package main_test runs the real forwarder with a real nats-server.
//
// "make torture" runs the long form of these tests, which compares the stream with the log,
// message by message, and prints figures. "make bench" compares the forwarder with a loop of
// PublishAsync, which NATS's library has.
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
func (p *process) expect(status int, want ...string) {
	p.t.Helper()
	got, reported := p.Wait(), p.Stderr.String()
	if got != status {
		p.t.Fatalf("status %d, want %d; it reported:\n%s", got, status, reported)
	}
	for _, text := range want {
		if !strings.Contains(reported, text) {
			p.t.Errorf("it reported:\n%s\nwant in it: %s", reported, text)
		}
	}
	if status == 0 && len(want) == 0 && reported != "" {
		p.t.Errorf("it reported:\n%s", reported)
	}
}

// stop sends SIGTERM to the process, and expects status 0 and want.
func (p *process) stop(want ...string) {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	p.expect(0, want...)
}

// reports waits until the standard error of the process has text.
func (p *process) reports(text string) {
	p.t.Helper()
	bustest.Until(p.t, "the words "+text, func() bool {
		select {
		case <-p.Ended:
			p.t.Fatalf("it ended, and reported:\n%s\nwant: %s", p.Stderr, text)
		default:
		}
		return strings.Contains(p.Stderr.String(), text)
	})
}
