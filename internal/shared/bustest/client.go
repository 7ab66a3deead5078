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

// Client sends payloads to a broker and reads its log. A method that fails ends the test, so only
// the test's own goroutine may call methods. Any goroutine may call Post and Received.
type Client struct {
	Address string       // where the broker listens, as host:port, or the path of a Unix socket
	Log     fmt.Stringer // everything that the broker has logged
	t       testing.TB
}

// NewClient returns a client of the broker that listens on address and writes log.
func NewClient(t testing.TB, address string, log fmt.Stringer) *Client {
	return &Client{Address: address, Log: log, t: t}
}

// Dial connects to the broker. The connection is closed when the test ends, and its
// deadline is Patience from the call.
func (c *Client) Dial() *Conn {
	c.t.Helper()
	connection, err := dial(c.Address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { connection.Close() })
	return &Conn{stream: connection, t: c.t}
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

// Post sends payload over a new connection and returns the reply. The broker may refuse a
// payload before its end. So Post returns a reply even if sending failed, or if the
// connection was reset after the reply.
func (c *Client) Post(payload string) (*apiv1.Reply, error) {
	connection, err := dial(c.Address)
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
func (c *Client) Send(payload string) *apiv1.Reply {
	c.t.Helper()
	reply, err := c.Post(payload)
	if err != nil {
		c.t.Fatalf("sent %.100q: %v", payload, err)
	}
	return reply
}

// Accept fails the test unless the broker reads all of payload and accepts it as count
// messages.
func (c *Client) Accept(payload string, count int) {
	c.t.Helper()
	c.exchange(payload, apiv1.Reply{Accepted: count})
}

// Refuse fails the test unless the broker reads all of payload, refuses it with reason,
// and logs one line that has the connection's address and the same reason.
func (c *Client) Refuse(payload, reason string) {
	c.t.Helper()
	from := c.exchange(payload, apiv1.Reply{Error: reason})
	c.Expect(fmt.Sprintf("refused payload from %s: %s", from, reason))
}

// exchange fails the test unless all of payload is sent, the reply is want, and the
// connection ends after the reply. It returns the client's address of the connection.
func (c *Client) exchange(payload string, want apiv1.Reply) net.Addr {
	c.t.Helper()
	connection := c.Dial()
	defer connection.Close()
	connection.End(payload)
	if reply := connection.Reply(); *reply != want {
		c.t.Fatalf("sent %.100q: the reply is %+v, want %+v", payload, *reply, want)
	}
	return connection.LocalAddr()
}

// Expect waits until the log has line, which is without its time stamp.
func (c *Client) Expect(line string) {
	c.t.Helper()
	Until(c.t, "the line "+line, func() bool {
		return strings.Contains(c.Log.String(), " "+line+"\n")
	})
}

// Received returns the data of the log's messages on topic. The data is escaped, as in the
// log.
func (c *Client) Received(topic string) []string {
	c.t.Helper()
	return Received(c.t, c.Log.String())[topic]
}

// Conn is a connection to a broker. A failure of Put, End and Reply ends the test.
type Conn struct {
	stream
	t testing.TB
}

// SetLinger is the method of *net.TCPConn.
func (c *Conn) SetLinger(seconds int) error {
	return c.stream.(*net.TCPConn).SetLinger(seconds)
}

// Put sends text as a part of the payload.
func (c *Conn) Put(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// End sends text as the last part of the payload.
func (c *Conn) End(text string) {
	c.t.Helper()
	c.Put(text)
	if err := c.CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
}

// Reply reads the reply and returns it. The connection must end after the reply.
func (c *Conn) Reply() *apiv1.Reply {
	c.t.Helper()
	answer, err := io.ReadAll(c)
	if err != nil {
		c.t.Fatalf("no reply: %v", err)
	}
	reply, err := decodeReply(answer)
	if err != nil {
		c.t.Fatal(err)
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
