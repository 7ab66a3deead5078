package bustest

import (
	"net"
	"testing"
	"time"
)

// A free address refuses connections. The kernel does not give its port to others, but a program
// that asks for it gets it.
func TestFreeAddress(t *testing.T) {
	address := FreeAddress(t)
	if connection, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		connection.Close()
		t.Errorf("somebody listens on %s", address)
	}
	for range 2 { // for a broker that is started again
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		listener.Close()
	}
	for range 40_000 { // more than the ports from which the kernel chooses
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if listener.Addr().String() == address {
			t.Fatalf("the kernel gave %s to another listener", address)
		}
		listener.Close()
	}
}
