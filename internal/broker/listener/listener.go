// Package listener listens for producers, on a TCP port or on the path of a Unix socket. It knows
// what differs between the two.
package listener

import (
	"context"
	"net"
	"time"

	"mbus/internal/shared/address"
)

// Listener accepts connections. Its implementations are tcpListener and socketListener.
type Listener interface {
	net.Listener                 // its connections are of the type Conn
	SetDeadline(time.Time) error // for Accept

	// Refuse makes the kernel refuse new connections, as far as it can, also while Accept
	// waits. Those that were opened before can still be accepted. If the listener were closed
	// instead, the kernel would reset them, and their producers could not know whether the
	// broker has read their payloads.
	Refuse()
}

// Conn is a *net.TCPConn or a *net.UnixConn.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// tcpListener listens on a TCP port.
type tcpListener struct{ *net.TCPListener }

// Listen listens on a host and a port, or on a path: see package address. The error names the
// address.
func Listen(host, port string) (Listener, error) {
	network, address, err := address.Parse(host, port)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return listenOnSocket(address)
	}
	config := net.ListenConfig{
		KeepAlive: -1, // no connection lasts long enough for it
		Control:   deferAccept,
	}
	config.SetMultipathTCP(false) // Refuse has no effect on it
	bound, err := config.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return tcpListener{bound.(*net.TCPListener)}, nil
}

// PeerName returns the name of the other end of a connection, for the log.
func PeerName(connection net.Conn) string {
	if socket, isSocket := connection.(*net.UnixConn); isSocket {
		return socketPeer(socket)
	}
	return connection.RemoteAddr().String()
}
