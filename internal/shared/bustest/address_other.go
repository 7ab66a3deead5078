//go:build !linux

package bustest

import "testing"

// FreeAddress returns an address of the loopback interface on which nobody listens. The kernel
// may give its port to somebody else.
func FreeAddress(t testing.TB) string {
	t.Helper()
	listener := Listen(t)
	defer listener.Close()
	return listener.Addr().String()
}
