// Package address reads a broker's address from the host and the port that a command was given.
// A host with a slash is the path of a Unix socket. Any other host is TCP's.
package address

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
)

// MaxPath is the length of the longest path of a Unix socket, in bytes: 107 on Linux, 103 on
// macOS. The kernel's structure has one more, for a zero at the end. See unix(7).
const MaxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// IsPath reports whether host is the path of a Unix socket.
func IsPath(host string) bool {
	return strings.Contains(host, "/")
}

// Parse returns the network and the address that package net takes for host and port. With a path
// it ignores port. It takes an IPv6 address in brackets too. The error says what host must be
// instead.
func Parse(host, port string) (network, address string, err error) {
	switch {
	case host == "":
		return "", "", errors.New("must be a host")
	case IsPath(host):
		address, err = parsePath(host)
		return "unix", address, err
	}
	plain := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	_, err = netip.ParseAddr(plain)
	if plain != host && host != "["+plain+"]" || err != nil && strings.ContainsAny(host, ":[]") {
		return "", "", errors.New("must be a name or an address alone, such as localhost or ::1, " +
			"or the path of a socket; the port has a flag of its own")
	}
	return "tcp", net.JoinHostPort(plain, port), nil
}

// parsePath returns the address of the Unix socket at path.
func parsePath(path string) (string, error) {
	if strings.Contains(path, "://") {
		return "", errors.New("must be a host alone, or the path of a socket, and not a URL")
	}
	if runtime.GOOS == "windows" {
		return "", errors.New("must be a host without a slash: Windows has no paths of sockets")
	}
	if strings.HasPrefix(path, "@") { // which package net takes for an abstract name
		path = "./" + path
	}
	if len(path) > MaxPath {
		return "", fmt.Errorf("must be at most %d bytes long, is %d", MaxPath, len(path))
	}
	return path, nil
}
