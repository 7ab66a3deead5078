package bustest

import (
	"net"
	"strconv"
	"syscall"
	"testing"
)

// FreeAddress returns an address of the loopback interface on which nobody listens. Until the
// test ends, the kernel gives its port to nobody who asks for any port. A program that asks for
// this port gets it.
func FreeAddress(t testing.TB) string {
	t.Helper()
	const kind = syscall.SOCK_STREAM | syscall.SOCK_CLOEXEC
	socket, err := syscall.Socket(syscall.AF_INET, kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(socket) })
	// With this option on both sockets, another one may listen on the address of one that does
	// not listen.
	err = syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	address, err := syscall.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(address.(*syscall.SockaddrInet4).Port))
}
