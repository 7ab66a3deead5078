//go:build !linux

package broker

import (
	"net"
	"syscall"
)

// deferAccept does nothing where the kernel can't defer connections.
func deferAccept(_, _ string, _ syscall.RawConn) error { return nil }

// refuseConnections does nothing where the kernel has no socket filters.
func refuseConnections(*net.TCPListener) {}
