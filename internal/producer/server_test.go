package producer_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// newProducer returns a producer for address. set may change its configuration.
func newProducer(
	t *testing.T, address string, set func(*producer.ProducerConfig),
) *producer.Producer {
	t.Helper()
	config := producer.DefaultConfig()
	var err error
	if config.Host, config.Port, err = net.SplitHostPort(address); err != nil {
		t.Fatal(err)
	}
	set(config)
	p, err := producer.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// retrying returns a producer for address that sends again.
func retrying(t *testing.T, address string, retry time.Duration) *producer.Producer {
	t.Helper()
	return newProducer(t, address, func(config *producer.ProducerConfig) { config.Retry = retry })
}

// server is a broker that accepts and refuses payloads as the test wants.
type server struct {
	address string
	t       *testing.T

	mutex    sync.Mutex
	payloads []payload
}

// payload is one payload that a server has received.
type payload struct {
	messages []*apiv1.Message
	size     int // in bytes
	accepted bool
}

// startServer starts a server, which ends with the test. For each payload it calls refuse
// with the payload's number, from 1, and its size. It refuses the payload for the reason
// that refuse returns, and accepts it if there is none.
func startServer(t *testing.T, refuse func(number, size int) string) *server {
	t.Helper()
	listener := bustest.Listen(t)
	server := &server{address: listener.Addr().String(), t: t}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			if err := server.serve(connection, refuse); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return server
}

// serve serves one connection.
func (s *server) serve(connection net.Conn, refuse func(number, size int) string) error {
	defer connection.Close()
	bytes, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	messages, err := decoder.NewMsgpackDecoder(1 << 30).Decode(bytes)
	if err != nil {
		return err
	}
	reply := &apiv1.Reply{Error: refuse(len(s.received())+1, len(bytes))}
	if reply.Error == "" {
		reply.Accepted = len(messages)
	}
	s.mutex.Lock()
	s.payloads = append(s.payloads, payload{messages, len(bytes), reply.Error == ""})
	s.mutex.Unlock()
	answer, err := encoder.NewMsgpackEncoder().EncodeReply(reply)
	if err == nil {
		_, err = connection.Write(answer)
	}
	return err
}

// received returns all payloads that the server has received.
func (s *server) received() []payload {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.payloads
}

// accepted returns the data of all accepted messages.
func (s *server) accepted() []string {
	data := []string{}
	for _, payload := range s.received() {
		for _, message := range payload.messages {
			if payload.accepted {
				data = append(data, string(message.Data))
			}
		}
	}
	return data
}

// last returns the number, from 1, of the first message of the last payload, and how many messages
// that has. All payloads before it must have been accepted.
func (s *server) last() (first, count int) {
	payloads := s.received()
	last := payloads[len(payloads)-1]
	first, count = len(s.accepted())+1, len(last.messages)
	if last.accepted {
		first -= count
	}
	return first, count
}

// sendLines sends the lines of input on the topic t. It returns how many messages and bytes of
// input SendLines has reported as accepted, and its error.
func (s *server) sendLines(
	ctx context.Context, retry time.Duration, input io.Reader,
) (messages, bytes int, err error) {
	s.t.Helper()
	accepted := func(moreMessages, moreBytes int) {
		messages += moreMessages
		bytes += moreBytes
	}
	err = retrying(s.t, s.address, retry).SendLines(ctx, "t", input, accepted)
	return messages, bytes, err
}

// acceptAll is the refuse function of a server that accepts everything.
func acceptAll(int, int) string { return "" }

// serveOne starts a server for one connection, and returns its address. Others can connect,
// but get no answer. The context of serve ends with the test.
func serveOne(t *testing.T, serve func(context.Context, *net.TCPConn)) string {
	t.Helper()
	listener := bustest.Listen(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		connection, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		defer connection.Close()
		serve(t.Context(), connection)
	}()
	t.Cleanup(func() {
		listener.Close()
		<-served
	})
	return listener.Addr().String()
}

// answer reads a whole payload and answers with text.
func answer(text string) func(context.Context, *net.TCPConn) {
	return func(_ context.Context, connection *net.TCPConn) {
		io.Copy(io.Discard, connection)
		io.WriteString(connection, text)
	}
}

// answerOpenly answers with text and leaves the connection open.
func answerOpenly(text string) func(context.Context, *net.TCPConn) {
	return func(ctx context.Context, connection *net.TCPConn) {
		io.WriteString(connection, text)
		<-ctx.Done()
	}
}

// answerEarly answers with text after it has read one byte, and hangs up.
func answerEarly(text string) func(context.Context, *net.TCPConn) {
	return func(_ context.Context, connection *net.TCPConn) {
		connection.Read(make([]byte, 1))
		io.WriteString(connection, text)
		connection.CloseWrite()
		io.CopyN(io.Discard, connection, 1<<20)
	}
}

// answerEndlessly reads a whole payload. Its answer has no end.
func answerEndlessly(_ context.Context, connection *net.TCPConn) {
	io.Copy(io.Discard, connection)
	for {
		if _, err := io.WriteString(connection, "x"); err != nil {
			return
		}
	}
}

// resetLate reads a whole payload and resets the connection.
func resetLate(_ context.Context, connection *net.TCPConn) {
	io.Copy(io.Discard, connection)
	connection.SetLinger(0)
}

// resetEarly reads one byte and resets the connection.
func resetEarly(_ context.Context, connection *net.TCPConn) {
	connection.Read(make([]byte, 1))
	connection.SetLinger(0)
}
