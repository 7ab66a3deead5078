package cmd_test

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// fullSocket listens on path, and fills the backlog.
func fullSocket(t *testing.T, path string) net.Listener {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(socket, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(socket, 1); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(socket), path)
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	for {
		connection, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			return listener
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { connection.Close() })
		connection.(*net.UnixConn).CloseWrite()
	}
}

// A socket whose backlog is full is in use. A producer waits there for its turn, within -timeout.
func TestFullBacklog(t *testing.T) {
	path := socketPath(t)
	listener := fullSocket(t, path)
	expect(t, 1, "broker: listen on "+path+": in use by another broker\n", "broker", "-phost", path)
	arguments := []string{"-host", path, "-topic", "t", "-message", "x", "-timeout"}
	begin := time.Now()
	expect(t, 1, "producer: "+path+": not accepted: timed out after 300ms\n",
		"producer", append(arguments, "300ms")...)
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("the producer gave up after %s, want 300ms", took)
	}
	go func() {
		time.Sleep(300 * time.Millisecond)
		bustest.ServeFloor(listener)
	}()
	expect(t, 0, "", "producer", append(arguments, "20s")...)
}
