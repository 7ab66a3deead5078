package bustest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// Client sends payloads to a bus and reads its log. A method that fails ends the test, so only
// the test's own goroutine may call methods. Any goroutine may call Post and Received.
type Client struct {
	Address string       // where the bus listens, as host:port, or the path of a Unix socket
	Log     fmt.Stringer // everything that the bus has logged
	t       testing.TB
}

// NewClient returns a client of the bus that listens on address and writes log.
func NewClient(t testing.TB, address string, log fmt.Stringer) *Client {
	return &Client{Address: address, Log: log, t: t}
}

// Dial connects to the bus. The connection is closed when the test ends, and its
// deadline is Patience from the call.
func (client *Client) Dial() *Conn {
	client.t.Helper()
	connection, err := dial(client.Address)
	if err != nil {
		client.t.Fatal(err)
	}
	client.t.Cleanup(func() { connection.Close() })
	return &Conn{stream: connection, t: client.t}
}

// stream is a *net.TCPConn or a *net.UnixConn.
type stream interface {
	net.Conn
	CloseWrite() error
}

// dial connects to address. The connection's deadline is Patience from the call.
func dial(address string) (stream, error) {
	connection, err := net.Dial(network(address), address)
	if err != nil {
		return nil, err
	}
	connection.SetDeadline(time.Now().Add(Patience))
	return connection.(stream), nil
}

// network returns the network of address: unix for a path, otherwise tcp.
func network(address string) string {
	if strings.Contains(address, "/") {
		return "unix"
	}
	return "tcp"
}

// Post sends payload over a new connection and returns the reply. The bus may refuse a
// payload before its end. So Post returns a reply even if sending failed, or if the
// connection was reset after the reply.
func (client *Client) Post(payload string) (*apiv1.Reply, error) {
	connection, err := dial(client.Address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	_, sending := io.WriteString(connection, payload)
	sending = errors.Join(sending, connection.CloseWrite())
	answer, reading := io.ReadAll(connection)
	reply, err := decodeReply(answer)
	if err != nil {
		return nil, errors.Join(err, sending, reading)
	}
	return reply, nil
}

// decodeReply returns the reply that answer encodes.
func decodeReply(answer []byte) (*apiv1.Reply, error) {
	reply, err := decoder.DecodeReply(answer)
	if err != nil {
		return nil, fmt.Errorf("the answer is %.300q: %w", answer, err)
	}
	return reply, nil
}

// Send is Post, but fails the test if there is no reply.
func (client *Client) Send(payload string) *apiv1.Reply {
	client.t.Helper()
	reply, err := client.Post(payload)
	if err != nil {
		client.t.Fatalf("sent %.100q: %v", payload, err)
	}
	return reply
}

// Accept fails the test unless the bus reads all of payload and accepts it as count
// messages.
func (client *Client) Accept(payload string, count int) {
	client.t.Helper()
	client.exchange(payload, apiv1.Reply{Accepted: count})
}

// Refuse fails the test unless the bus reads all of payload, refuses it with reason,
// and logs one line that has the connection's address and the same reason.
func (client *Client) Refuse(payload, reason string) {
	client.t.Helper()
	from := client.exchange(payload, apiv1.Reply{Error: reason})
	client.Expect(fmt.Sprintf("refused payload from %s: %s", from, reason))
}

// exchange fails the test unless all of payload is sent, the reply is want, and the
// connection ends after the reply. It returns the client's address of the connection.
func (client *Client) exchange(payload string, want apiv1.Reply) net.Addr {
	client.t.Helper()
	connection := client.Dial()
	defer connection.Close()
	connection.End(payload)
	if reply := connection.Reply(); *reply != want {
		client.t.Fatalf("sent %.100q: the reply is %+v, want %+v", payload, *reply, want)
	}
	return connection.LocalAddr()
}

// Expect waits until the log has line, which is without its time stamp.
func (client *Client) Expect(line string) {
	client.t.Helper()
	Until(client.t, "the line "+line, func() bool {
		return strings.Contains(client.Log.String(), " "+line+"\n")
	})
}

// Received returns the data of the log's messages on topic. The data is escaped, as in the
// log.
func (client *Client) Received(topic string) []string {
	client.t.Helper()
	return Received(client.t, client.Log.String())[topic]
}

// Conn is a connection to a bus. A failure of Put, End and Reply ends the test.
type Conn struct {
	stream
	t testing.TB
}

// SetLinger is the method of *net.TCPConn.
func (connection *Conn) SetLinger(seconds int) error {
	return connection.stream.(*net.TCPConn).SetLinger(seconds)
}

// Put sends text as a part of the payload.
func (connection *Conn) Put(text string) {
	connection.t.Helper()
	if _, err := io.WriteString(connection, text); err != nil {
		connection.t.Fatal(err)
	}
}

// End sends text as the last part of the payload.
func (connection *Conn) End(text string) {
	connection.t.Helper()
	connection.Put(text)
	if err := connection.CloseWrite(); err != nil {
		connection.t.Fatal(err)
	}
}

// Reply reads the reply and returns it. The connection must end after the reply.
func (connection *Conn) Reply() *apiv1.Reply {
	connection.t.Helper()
	answer, err := io.ReadAll(connection)
	if err != nil {
		connection.t.Fatalf("no reply: %v", err)
	}
	reply, err := decodeReply(answer)
	if err != nil {
		connection.t.Fatal(err)
	}
	return reply
}

// Payload returns the payload of one message on topic for each of data.
func Payload(topic string, data ...string) string {
	messages := make([]*apiv1.Message, len(data))
	for i, text := range data {
		messages[i] = &apiv1.Message{Topic: topic, Data: []byte(text)}
	}
	return Encode(messages...)
}

// Encode returns the payload of messages. It panics if the encoder fails, which it never does.
func Encode(messages ...*apiv1.Message) string {
	payload, err := encoder.NewMsgpackEncoder().Encode(messages)
	if err != nil {
		panic(err)
	}
	return string(payload)
}
