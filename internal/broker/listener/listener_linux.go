package listener

import (
	"fmt"
	"net"
	"syscall"
	"time"
)

// deferAccept keeps a connection in the kernel until its first byte or its end arrives, for an
// hour. So a producer that sends nothing delays nobody. See tcp(7), TCP_DEFER_ACCEPT. It
// ignores errors: a broker that can't defer serves silent producers like all others.
//
// It is the Control function of a net.ListenConfig.
func deferAccept(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(descriptor uintptr) {
		syscall.SetsockoptInt(int(descriptor), syscall.IPPROTO_TCP, syscall.TCP_DEFER_ACCEPT,
			int(time.Hour/time.Second))
	})
}

// Refuse makes the kernel drop each packet that opens a new connection. It ignores errors: without
// the filter, the broker accepts connections a little longer.
//
// The filter is a program of classic BPF, which is given packets from the TCP header on; see
// socket(7), SO_ATTACH_FILTER.
func (l tcpListener) Refuse() {
	const flags, syn = 13, 0x02 // the flags' offset, and SYN's bit (RFC 9293, 3.1)
	program := []syscall.SockFilter{
		{Code: syscall.BPF_LD | syscall.BPF_B | syscall.BPF_ABS, K: flags},
		{Code: syscall.BPF_JMP | syscall.BPF_JSET | syscall.BPF_K, K: syn, Jf: 1},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: 0},          // nothing of the packet
		{Code: syscall.BPF_RET | syscall.BPF_K, K: 0xffffffff}, // all of it
	}
	control(l, func(descriptor int) {
		//lint:ignore SA1019 its replacement is a second dependency.
		syscall.AttachLsf(descriptor, program)
	})
}

// shutDown makes the kernel refuse new connections to a Unix socket. Those that were opened before
// can still be accepted.
func shutDown(listener *net.UnixListener) {
	control(listener, func(descriptor int) { syscall.Shutdown(descriptor, syscall.SHUT_RD) })
}

// socketPeer returns the process and the user that have opened a connection; see unix(7),
// SO_PEERCRED. In a user namespace, a user from outside of it has the id 65534.
func socketPeer(connection *net.UnixConn) string {
	name := "a local process"
	control(connection, func(descriptor int) {
		peer, err := syscall.GetsockoptUcred(descriptor, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err == nil {
			name = fmt.Sprintf("pid %d uid %d", peer.Pid, peer.Uid)
		}
	})
	return name
}

// control calls do with the descriptor of socket, unless the socket is closed.
func control(socket syscall.Conn, do func(descriptor int)) {
	if raw, err := socket.SyscallConn(); err == nil {
		raw.Control(func(descriptor uintptr) { do(int(descriptor)) })
	}
}
