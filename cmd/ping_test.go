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

// expectPing fails the test unless a -ping of address ends with status, and with exactly
// stderr on standard error.
func expectPing(t *testing.T, address string, status int, stderr string, flags ...string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	expect(t, status, stderr, "producer", append([]string{"-ping", "-port", port}, flags...)...)
}

// A broker that is idle answers, and nothing of that is in its log.
func TestPing(t *testing.T) {
	broker := startBroker(t)
	before := bustest.Lines(t, broker.Log.String())
	expectPing(t, broker.Address, 0, "")
	broker.Accept(bustest.Payload("t", "1"), 1)
	broker.Expect("new message dispatched on topic t")
	got := bustest.Lines(t, broker.Log.String())
	want := append(before, "creating topic t", "new message dispatched on topic t")
	if !slices.Equal(got[:min(len(got), len(want))], want) {
		t.Errorf("the log is\n%s", broker.Log)
	}
	broker.stop()
	gone := "producer: " + broker.Address + ": connect: connection refused\n"
	expectPing(t, broker.Address, 1, gone)
	expectPing(t, broker.Address, 1, gone, "-retry", "100ms")
}

// A full queue, and a log that takes nothing, don't keep a broker from answering.
func TestPingFull(t *testing.T) {
	broker, _ := startInPipe(t, "-interval", "10ms", "-timeout", "100ms", "-max-queued", "100000")
	broker.fill(bustest.Payload("t", strings.Repeat("x", 1000)))
	expectPing(t, broker.Address, 0, "")
}

// A broker that stops does not answer, while it serves somebody or writes its log: it will
// not be there for messages.
func TestPingStopping(t *testing.T) {
	broker, log := startInPipe(t, "-interval", "10ms", "-timeout", "1h")
	for range 100 { // more than a pipe takes
		broker.Accept(bustest.Payload("t", strings.Repeat("x", 1000)), 1)
	}
	stalled := broker.Dial()
	stalled.Put("\x82")
	bustest.Until(t, "the stalled client's turn", broker.isBusy)
	broker.signal(syscall.SIGTERM)
	expectPing(t, broker.Address, 1, "producer: "+broker.Address+": no end within 300ms\n",
		"-timeout", "300ms")
	stalled.Close()
	bustest.Until(t, "the end of serving", func() bool {
		status, _, stderr := run(t, "producer", "-ping", "-port", broker.port, "-timeout", "300ms")
		if status != 1 {
			t.Errorf("status %d: %s", status, stderr)
		}
		return strings.HasSuffix(stderr, ": connect: connection refused\n")
	})
	log.readRest(t, 4096, 0)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// With -retry, a ping waits until the broker is up, whatever is on its port before.
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
		t.Errorf("%v: %s", err, stderr)
	}
	broker.stop()
}

// What answers nothing, or is no broker, is status 1 and one line. Status 3 is for messages.
func TestPingStrangers(t *testing.T) {
	mute := bustest.Listen(t) // the kernel accepts connections for it
	expectPing(t, mute.Addr().String(), 1,
		"producer: "+mute.Addr().String()+": no end within 200ms\n", "-timeout", "200ms")
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

// A ping sends nothing, so it takes nothing to send.
func TestPingMisuse(t *testing.T) {
	for _, flags := range [][]string{{"-topic", "t"}, {"-message", ""}, {"-lines"}} {
		expect(t, 2, "producer: -ping: must be without -topic, -message and -lines (see producer -h)\n",
			"producer", append(flags, "-ping")...)
	}
	expect(t, 2, "producer: -timeout 0s: must be a duration above 0, such as 30s (see producer -h)\n",
		"producer", "-ping", "-timeout", "0")
}
