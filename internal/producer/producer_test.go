package producer_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/broker"
	"mbus/internal/producer"
)

// dialling returns a producer for address.
func dialling(t *testing.T, address string, timeout time.Duration) *producer.Producer {
	t.Helper()
	config := producer.DefaultConfig()
	var err error
	if config.Host, config.Port, err = net.SplitHostPort(address); err != nil {
		t.Fatal(err)
	}
	config.Timeout = timeout
	sender, err := producer.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

// answering starts a server that serves one connection, and returns its address.
func answering(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		serve(connection.(*net.TCPConn))
	}()
	t.Cleanup(func() {
		listener.Close()
		<-served
	})
	return listener.Addr().String()
}

// saying reads a whole payload and answers with text.
func saying(text string) func(*net.TCPConn) {
	return func(connection *net.TCPConn) {
		io.Copy(io.Discard, connection)
		io.WriteString(connection, text)
	}
}

// endless reads a whole payload and never ends its answer.
func endless(connection *net.TCPConn) {
	io.Copy(io.Discard, connection)
	for {
		if _, err := connection.Write([]byte("x")); err != nil {
			return
		}
	}
}

// refused reports whether err is the broker's own refusal.
func refused(err error) bool {
	var refusal producer.Refusal
	return errors.As(err, &refusal)
}

// foreign is in the errors about an answer that no broker sends.
const foreign = "the answer is not a reply of mbus, is -port right?"

var message = []*apiv1.Message{{Topic: "t", Data: []byte("text")}}

func TestSendToABroker(t *testing.T) {
	var log strings.Builder
	config := broker.DefaultConfig()
	config.ProducerPort = "0"
	config.MaxPayload = 1 << 20
	config.Log = &log
	bus, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- bus.ProducerListen() }()
	sender := dialling(t, bus.Addr().String(), 20*time.Second)

	for _, messages := range [][]*apiv1.Message{message, {}, {message[0], {Topic: "u"}}} {
		if err := sender.Send(t.Context(), messages); err != nil {
			t.Errorf("%d messages: %v", len(messages), err)
		}
	}
	for want, wrong := range map[string]*apiv1.Message{
		`message 1: entry "Topic" is 0 bytes long, must be 1 to 255`:                    {},
		"the payload is too large: more than 1048576 bytes (the broker's -max-payload)": {Topic: "t", Data: make([]byte, 16<<20)},
	} {
		err := sender.Send(t.Context(), []*apiv1.Message{wrong})
		if !refused(err) || errors.Is(err, producer.ErrUnknown) || err.Error() != bus.Addr().String()+": refused: "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	bus.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := strings.Count(log.String(), "Received new message"); got != 3 {
		t.Errorf("%d messages in the log, want 3:\n%s", got, log.String())
	}
}

// timeout returns the time-out for a test that wants an error.
func timeout(want string) time.Duration {
	if strings.Contains(want, "no end within 1s") {
		return time.Second
	}
	return 20 * time.Second
}

// Whatever answers, the error says what is known.
func TestSendToOthers(t *testing.T) {
	const accepted, fault = "\xa8Accepted", "\xa5Error"
	for name, test := range map[string]struct {
		serve   func(*net.TCPConn)
		unknown bool
		refused bool
		want    string
	}{
		"accepts":           {saying("\x82" + accepted + "\x01" + fault + "\xa0"), false, false, ""},
		"refuses":           {saying("\x82" + accepted + "\x00" + fault + "\xa3why"), false, true, "refused: why"},
		"refuses at length": {saying("\x82" + accepted + "\x00" + fault + "\xd9\xc8" + strings.Repeat("x", 200)), false, true, "refused: " + strings.Repeat("x", 200)},
		"hangs up":          {saying(""), true, false, "the connection ended without a reply"},
		"half a reply":      {saying("\x82" + accepted + "\x01"), true, false, foreign + " the reply: ends early, in key 2"},
		"HTTP":              {saying("HTTP/1.1 400 Bad Request\r\n\r\n"), true, false, foreign + " the reply is an integer, must be a map of Accepted and Error"},
		"endless":           {endless, true, false, foreign},
		"another count":     {saying("\x82" + accepted + "\x02" + fault + "\xa0"), true, false, `the broker answers 2 accepted of 1, ""`},
		"contradicts":       {saying("\x82" + accepted + "\x01" + fault + "\xa3why"), true, false, `the broker answers 1 accepted of 1, "why"`},
		"accepts nothing":   {saying("\x82" + accepted + "\x00" + fault + "\xa0"), true, false, `the broker answers 0 accepted of 1, ""`},
		"resets":            {func(connection *net.TCPConn) { io.Copy(io.Discard, connection); connection.SetLinger(0) }, true, false, "connection reset by peer"},
		"never answers":     {func(connection *net.TCPConn) { io.Copy(io.Discard, connection); time.Sleep(1500 * time.Millisecond) }, true, false, "no end within 1s"},
		"answers, stays on": {func(connection *net.TCPConn) {
			io.WriteString(connection, "SSH-2.0")
			time.Sleep(1500 * time.Millisecond)
		}, true, false, foreign + " the reply is an integer, " +
			"must be a map of Accepted and Error; no end within 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			address := answering(t, test.serve)
			err := dialling(t, address, timeout(test.want)).Send(t.Context(), message)
			if errors.Is(err, producer.ErrUnknown) != test.unknown || refused(err) != test.refused {
				t.Errorf("unknown, refused: want %v, %v, got %v", test.unknown, test.refused, err)
			}
			if test.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), address+": ") {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// What can't be sent whole was not accepted, even if the other side says it was.
func TestSendBreaksOff(t *testing.T) {
	for name, test := range map[string]struct {
		serve func(*net.TCPConn)
		want  string
	}{
		"reset":          {func(connection *net.TCPConn) { connection.Read(make([]byte, 1)); connection.SetLinger(0) }, "sending broke off: "},
		"accepted early": {interrupting("\x82\xa8Accepted\x01\xa5Error\xa0"), "sending broke off: "},
		"refused early":  {interrupting("\x82\xa8Accepted\x00\xa5Error\xa3why"), "refused: why"},
		"another server": {interrupting("HTTP/1.1 413 Too Large\r\n\r\n"), "; " + foreign},
		"never read":     {func(connection *net.TCPConn) { time.Sleep(1500 * time.Millisecond) }, "sending broke off: no end within 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			large := []*apiv1.Message{{Topic: "t", Data: make([]byte, 16<<20)}}
			err := dialling(t, answering(t, test.serve), timeout(test.want)).Send(t.Context(), large)
			if err == nil || errors.Is(err, producer.ErrUnknown) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// interrupting answers with text after it has read one byte, and hangs up.
func interrupting(text string) func(*net.TCPConn) {
	return func(connection *net.TCPConn) {
		connection.Read(make([]byte, 1))
		io.WriteString(connection, text)
		connection.CloseWrite()
		io.CopyN(io.Discard, connection, 1<<20)
	}
}

// Where nothing is sent, nothing was accepted.
func TestSendToNobody(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	listener.Close()
	for address, want := range map[string]string{
		nobody:                      ": not accepted: connect: connection refused",
		"no-such-host.invalid:9990": ": not accepted: lookup no-such-host.invalid",
	} {
		err := dialling(t, address, 10*time.Second).Send(t.Context(), message)
		if err == nil || errors.Is(err, producer.ErrUnknown) || !strings.HasPrefix(err.Error(), address+want) {
			t.Errorf("got %v, want %s", err, address+want)
		}
	}
}

func TestValidate(t *testing.T) {
	const alone = "must be a name or an address alone, " +
		"such as localhost or ::1; the port goes to -port"
	host := func(host string) func(*producer.ProducerConfig) {
		return func(config *producer.ProducerConfig) { config.Host = host }
	}
	for _, test := range []struct {
		set  func(*producer.ProducerConfig)
		want string
	}{
		{func(*producer.ProducerConfig) {}, ""},
		{func(config *producer.ProducerConfig) { config.Host = "" }, `-host "": must be a host`},
		{host("localhost"), ""},
		{host("127.0.0.1"), ""},
		{host("::1"), ""},
		{host("fe80::1%eth0"), ""},
		{host("localhost:9990"), `-host "localhost:9990": ` + alone},
		{host("127.0.0.1:9990"), `-host "127.0.0.1:9990": ` + alone},
		{host("[::1]"), `-host "[::1]": ` + alone},
		{host("[::1]:9990"), `-host "[::1]:9990": ` + alone},
		{host("http://localhost"), `-host "http://localhost": ` + alone},
		{host("localhost/"), `-host "localhost/": ` + alone},
		{func(config *producer.ProducerConfig) { config.Port = "0" }, `-port "0": must be a number from 1 to 65535`},
		{func(config *producer.ProducerConfig) { config.Port = "65536" }, `-port "65536": must be a number from 1 to 65535`},
		{func(config *producer.ProducerConfig) { config.Retry = -1 }, "-retry -1ns: must be a duration of at least 0, such as 30s"},
		{func(config *producer.ProducerConfig) { config.Port = "x" }, `-port "x": must be a number from 1 to 65535`},
		{func(config *producer.ProducerConfig) { config.Timeout = 0 }, "-timeout 0s: must be a duration above 0, such as 30s"},
	} {
		config := producer.DefaultConfig()
		test.set(config)
		_, err := producer.New(config)
		if got := ""; err != nil {
			got = err.Error()
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		} else if test.want != "" {
			t.Errorf("no error, want %q", test.want)
		}
	}
}
