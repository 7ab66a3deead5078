//go:build unix

package main_test

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// A crash is SIGABRT, and not status 2, which is wrong usage. SIGQUIT makes a program in Go crash.
func TestCrash(t *testing.T) {
	engine := bustest.Listen(t)
	engine.SetDeadline(time.Now().Add(bustest.Patience))
	directory := t.TempDir()
	const script = `ulimit -c 0; exec "$0" "$@"`
	crashing := bustest.Start(t, exec.Command("sh", "-c", script, forwarder,
		"-log", filepath.Join(directory, "log"), "-state", filepath.Join(directory, "state"),
		"-stream", "S", "-url", "nats://"+engine.Addr().String()))
	connection, err := engine.Accept() // it waits for an answer
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	crashing.Signal(syscall.SIGQUIT)
	crashing.Wait()
	state := crashing.Command.ProcessState
	status := state.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGABRT {
		t.Errorf("the forwarder ended with %v, want SIGABRT", state)
	}
}
