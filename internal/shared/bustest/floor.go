package bustest

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
)

// ListenFloor listens on a free port of the loopback interface for ServeFloor. It sets the
// same socket options as the broker.
func ListenFloor() (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// ServeFloor is the reading floor: it does the least that any broker must do. It serves one
// connection at a time, reads it to its end, replies that it accepted one message, and
// closes the connection. When listener is closed, it returns the error of Accept.
func ServeFloor(listener net.Listener) error {
	buffer := make([]byte, 64<<10)
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		for err == nil {
			_, err = connection.Read(buffer)
		}
		io.WriteString(connection, "\x82\xa8Accepted\x01\xa5Error\xa0")
		connection.Close()
	}
}

// Deliver sends payload to a broker or a floor and waits for the reply. It fails the test if
// nothing was accepted. It does nothing else, because benchmarks measure it.
func Deliver(t testing.TB, address string, payload []byte) {
	t.Helper()
	connection, err := net.Dial(network(address), address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	connection.Write(payload)
	connection.(stream).CloseWrite()
	var reply [256]byte // a longer one is a refusal
	count, err := connection.Read(reply[:])
	if err != nil || bytes.HasPrefix(reply[:count], []byte("\x82\xa8Accepted\x00")) {
		t.Fatalf("the reply is %q, error %v", reply[:count], err)
	}
	connection.Read(reply[:]) // the end
}
