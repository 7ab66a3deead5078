//go:build !linux

package broker

import "net"

// refuseConnections does nothing where the kernel has no socket filters.
func refuseConnections(*net.TCPListener) {}
