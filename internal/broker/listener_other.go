//go:build !linux

package broker

import (
	"net"
	"syscall"
)

// deferAccept does nothing where the kernel can't defer connections.
func deferAccept(_, _ string, _ syscall.RawConn) error { return nil }

// placesForReplies returns how many replies may wait. Each needs a descriptor, and some systems
// allow a process only 256.
func placesForReplies() int { return maxReplies / 4 }

// refuseConnections does nothing where the kernel has no socket filters.
func refuseConnections(*net.TCPListener) {}
