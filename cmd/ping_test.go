//go:build unix

package cmd_test

import (
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mbus/internal/shared/bustest"
)

// expectPing fails the test unless a producer that pings the port of address ends with status,
// and with exactly stderr on standard error.
func expectPing(t *testing.T, address string, status int, stderr string, flags ...string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	expect(t, status, stderr, "producer", append([]string{"-ping", "-port", port}, flags...)...)
}

// An idle broker answers a ping, and does not log it.
func TestPing(t *testing.T) {
	broker := startBroker(t)
	before := bustest.Lines(t, broker.Log.String())
	expectPing(t, broker.Address, 0, "")
	broker.Accept(bustest.Payload("t", "1"), 1)
	broker.Expect("new message dispatched on topic t")
	got := bustest.Lines(t, broker.Log.String())
	want := append(before, "creating topic t", "new message dispatched on topic t")
	if !slices.Equal(got[:min(len(got), len(want))], want) {
		t.Errorf("the log is\n%s\nwant no line of a ping", broker.Log)
	}
	broker.stop()
	gone := "producer: " + broker.Address + ": connect: connection refused\n"
	expectPing(t, broker.Address, 1, gone)
	expectPing(t, broker.Address, 1, gone, "-retry", "100ms")
}

// A broker answers a ping even if its queue is full and nobody reads its log pipe.
func TestPingFull(t *testing.T) {
	broker, _ := startInPipe(t, "-interval", "10ms", "-timeout", "100ms", "-max-queued", "100000")
	broker.fill(bustest.Payload("t", strings.Repeat("x", 1000)))
	expectPing(t, broker.Address, 0, "")
}

// A stopping broker does not answer a ping, because it will not accept messages. It does not
// answer while it serves another client, nor while it writes its log.
func TestPingStopping(t *testing.T) {
	broker, log := startInPipe(t, "-interval", "10ms", "-timeout", "1h")
	for range 100 { // more bytes than the pipe holds
		broker.Accept(bustest.Payload("t", strings.Repeat("x", 1000)), 1)
	}
	stalled := broker.Dial()
	stalled.Put("\x82")
	bustest.Until(t, "the stalled client's turn", broker.isBusy)
	broker.signal(syscall.SIGTERM)
	expectPing(t, broker.Address, 1, "producer: "+broker.Address+": timed out after 300ms\n",
		"-timeout", "300ms")
	stalled.Close()
	bustest.Until(t, "the end of serving", func() bool {
		status, _, stderr := run(t, "producer", "-ping", "-port", broker.port, "-timeout", "300ms")
		if status != 1 {
			t.Errorf("the ping ended with status %d, want 1: %s", status, stderr)
		}
		return strings.HasSuffix(stderr, ": connect: connection refused\n")
	})
	log.readRest(t, 4096, 0)
	if status := broker.wait(); status != 0 {
		t.Errorf("the broker ended with status %d, want 0", status)
	}
}

// With -retry, a ping waits until the broker is up, even if another server had the port before.
func TestPingRetry(t *testing.T) {
	listener := bustest.Listen(t)
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	ping := command("producer", "-ping", "-port", port, "-retry", "1h")
	stderr := start(t, ping)
	connection, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(connection, "HTTP/1.1 400 Bad Request\r\n\r\n")
	connection.Close()
	listener.Close()
	broker := startAt(t, address)
	if err := ping.Wait(); err != nil {
		t.Errorf("the ping failed: %v: %s", err, stderr)
	}
	broker.stop()
}

// A ping ends with status 1 and one line if the server does not answer or is no broker. It never
// ends with status 3, because it sends no message.
func TestPingStrangers(t *testing.T) {
	mute := bustest.Listen(t) // the kernel accepts connections for it
	expectPing(t, mute.Addr().String(), 1,
		"producer: "+mute.Addr().String()+": timed out after 200ms\n", "-timeout", "200ms")
	const foreign = "the answer is not a reply of mbus, is -port right? "
	for answer, reason := range map[string]string{
		"": "the connection ended without a reply",
		"HTTP/1.1 400 Bad Request\r\n\r\n": foreign +
			"the reply is an integer, must be a map of Accepted and Error",
		"220 mail.example ESMTP\r\n": foreign +
			"the reply is an integer, must be a map of Accepted and Error",
		"\x82\xa8Accepted\x05\xa5Error\xa0":    "the broker answers 5 accepted of 0",
		"\x82\xa8Accepted\x00\xa5Error\xa2no":  "refused: no",
		"\x82\xa8Accepted\x05\xa5Error\xa2\n!": `refused: \n!`,
	} {
		listener := bustest.Listen(t)
		answered := make(chan error, 1)
		go func() {
			connection, err := listener.Accept()
			if err == nil {
				io.Copy(io.Discard, connection)
				_, err = io.WriteString(connection, answer)
				connection.Close()
			}
			answered <- err
		}()
		address := listener.Addr().String()
		expectPing(t, address, 1, "producer: "+address+": "+reason+"\n")
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

// A ping sends no message, so -ping excludes the flags that are about messages.
func TestPingMisuse(t *testing.T) {
	for _, flags := range [][]string{{"-topic", "t"}, {"-message", ""}, {"-lines"}} {
		expectMisuse(t, "-ping: must be without -topic, -message, -lines and -at-least-once",
			append(flags, "-ping")...)
	}
	expectMisuse(t, "-timeout 0s: must be a duration above 0, such as 30s",
		"-ping", "-timeout", "0")
}
