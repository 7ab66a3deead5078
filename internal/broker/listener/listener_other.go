//go:build !linux

package listener

import (
	"net"
	"syscall"
)

// deferAccept does nothing where the kernel can't defer connections.
func deferAccept(_, _ string, _ syscall.RawConn) error { return nil }

// Refuse does nothing where the kernel has no socket filters.
func (l tcpListener) Refuse() {}

// shutDown does nothing where the kernel would not keep the connections that wait.
func shutDown(*net.UnixListener) {}

// socketPeer returns a name for the other end of any Unix socket.
func socketPeer(*net.UnixConn) string { return "a local process" }
