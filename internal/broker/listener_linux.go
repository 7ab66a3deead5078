package broker

import (
	"net"
	"syscall"
)

// refuseConnections makes the kernel drop every packet for the listening socket
// from now on, while the connections that it has completed go on and can still
// be accepted. A socket that is just closed would reset a connection completed at
// the last moment, and its producer could not tell whether its payload was read.
//
// The filter is a program of classic BPF that returns 0, "take nothing"; see
// socket(7), SO_ATTACH_FILTER. Without it, connections are merely accepted a
// little longer, so an error does no harm.
func refuseConnections(listener *net.TCPListener) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	nothing := []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}}
	raw.Control(func(descriptor uintptr) {
		//lint:ignore SA1019 its replacement is a second dependency.
		syscall.AttachLsf(int(descriptor), nothing)
	})
}
