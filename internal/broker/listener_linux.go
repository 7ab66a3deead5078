package broker

import (
	"net"
	"syscall"
	"time"
)

// deferAccept keeps a connection in the kernel until its first byte or its end
// comes, for an hour, so that a client that sends nothing delays nobody; see
// tcp(7), TCP_DEFER_ACCEPT. Without it, a silent client is served like any other,
// so an error does no harm. It is the Control function of a net.ListenConfig.
func deferAccept(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(descriptor uintptr) {
		syscall.SetsockoptInt(int(descriptor), syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT,
			int(time.Hour/time.Second))
	})
}

// refuseConnections makes the kernel drop every packet that would open another
// connection to the listening socket. Connections that are open or about to be can
// still be accepted. If the socket were closed instead, the kernel would reset a
// connection completed at the last moment, and its producer could not know whether
// its payload was read.
//
// The filter is a program of classic BPF, which sees packets from the TCP header
// on; see socket(7), SO_ATTACH_FILTER. Without it, connections are accepted a
// little longer, so an error does no harm.
func refuseConnections(listener *net.TCPListener) {
	const flags, syn = 13, 0x02 // the header's byte of flags, and the flag that opens (RFC 9293, 3.1)
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	program := []syscall.SockFilter{
		{Code: syscall.BPF_LD | syscall.BPF_B | syscall.BPF_ABS, K: flags},
		{Code: syscall.BPF_JMP | syscall.BPF_JSET | syscall.BPF_K, K: syn, Jf: 1},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: 0},          // nothing of the packet
		{Code: syscall.BPF_RET | syscall.BPF_K, K: 0xffffffff}, // all of it
	}
	raw.Control(func(descriptor uintptr) {
		//lint:ignore SA1019 its replacement is a second dependency.
		syscall.AttachLsf(int(descriptor), program)
	})
}
