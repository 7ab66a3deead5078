package broker

import (
	"net"
	"syscall"
	"time"
)

// deferAccept keeps a connection in the kernel until its first byte or its end arrives, for an
// hour. So a client that sends nothing delays nobody. See tcp(7), TCP_DEFER_ACCEPT. It
// ignores errors: a broker that can't defer serves silent clients like all others.
//
// It is the Control function of a net.ListenConfig.
func deferAccept(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(descriptor uintptr) {
		syscall.SetsockoptInt(int(descriptor), syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT,
			int(time.Hour/time.Second))
	})
}

// placesForReplies returns how many replies may wait. Each needs a descriptor, and so do the log,
// the listener, the connection in hand and the Go runtime.
func placesForReplies() int {
	const others = 16
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1
	}
	return int(min(max(limit.Cur, others+1)-others, maxReplies))
}

// refuseConnections makes the kernel drop each packet that opens a new connection to listener.
// Connections that were opened before can still be accepted. If the listener were closed
// instead, the kernel would reset a connection that was opened at the last moment. Its
// producer could not know whether the broker has read its payload.
//
// The filter is a program of classic BPF, which is given packets from the TCP header on; see
// socket(7), SO_ATTACH_FILTER. refuseConnections ignores errors: without the filter, the
// broker accepts connections a little longer.
func refuseConnections(listener *net.TCPListener) {
	const flags, syn = 13, 0x02 // the flags' offset, and SYN's bit (RFC 9293, 3.1)
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
