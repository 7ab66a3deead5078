package broker

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// malformed maps payloads that break the protocol to the reasons of their refusals.
var malformed = malformedPayloads()

// malformedPayloads returns the value of malformed.
func malformedPayloads() map[string]string {
	const (
		t           = "\x82\xa5Topic\xa1t" // a message's beginning
		longTopic   = "\x82\xa5Topic\xdb\xff\xff\xff\xffx"
		noMap       = ", must be a map of Topic and Data"
		noTopic     = `message 1: entry "Topic" is `
		noData      = `message 1: entry "Data" is an integer, must be binary, a string or nil`
		endsInTopic = `message 1: ends early, in entry "Topic": `
		endsInData  = `message 1: ends early, in entry "Data"`
	)
	return map[string]string{
		"G":                         "message 1: is an integer" + noMap,
		"\xa5hello":                 "message 1: is a string" + noMap,
		"\xc0":                      "message 1: is nil" + noMap,
		"\xc1":                      "message 1: is the unused byte 0xc1" + noMap,
		"\xc2":                      "message 1: is a boolean" + noMap,
		"\xca\x00\x00\x00\x00":      "message 1: is a float" + noMap,
		"\xc4\x00":                  "message 1: is binary" + noMap,
		"\xd4\x01\x00":              "message 1: is an extension" + noMap,
		"\x91\x90":                  "message 1: is an array" + noMap,
		"\xdc\x00":                  "the payload ends early, in its array header",
		"\x92" + t + "\xa4Data\xc0": "message 2: ends early, in its map header",
		t + "\xa4Data\xc0\x00":      "the payload has 1 bytes after its end",
		"\x80":                      "message 1: has 0 entries, must have 2: Topic and Data",
		"\x83":                      "message 1: has 3 entries, must have 2: Topic and Data",
		"\x82\x01":                  "message 1: key 1 is an integer, must be a string",
		"\x82\xa3Foo":               `message 1: unknown entry "Foo", must be "Topic" or "Data"`,
		"\x82\xa5Topic\x05":         noTopic + "an integer, must be a string",
		"\x82\xa5Topic\xa0":         noTopic + "0 bytes long, must be 1 to 255",
		"\x82\xa5Topic\xa1\x07":     noTopic + "not printable UTF-8 at byte 1",
		longTopic:                   endsInTopic + "4294967295 bytes declared, 1 are there",
		t + "\xa5Topic\xa1t":        noTopic + "there twice",
		t + "\xa4Data\x05":          noData,
		t + "\xa4Data\xc6\xff\xff":  endsInData,
		t + "\xa4Data\xc4\x03cu":    endsInData + ": 3 bytes declared, 2 are there",
	}
}

// Each malformed payload is refused with its reason, has one line in the log, and queues
// nothing.
func TestMalformedPayloads(t *testing.T) {
	broker := start(t, nil)
	reasons := make(map[string]bool)
	for payload, reason := range malformed {
		broker.Refuse(payload, reason)
		reasons[reason] = true
	}
	if len(reasons) < 20 || len(reasons) != len(malformed) {
		t.Errorf("%d payloads have %d reasons", len(malformed), len(reasons))
	}
	broker.Accept(bustest.Payload("t", "still serving"), 1)
	broker.Close()
	var refused int
	for _, line := range bustest.Lines(t, broker.Log.String()) {
		if rest, ok := strings.CutPrefix(line, "refused payload from 127.0.0.1:"); ok {
			_, reason, _ := strings.Cut(rest, ": ")
			if !reasons[reason] {
				t.Errorf("no payload is refused for this: %s", line)
			}
			delete(reasons, reason)
			refused++
		}
	}
	if refused != len(malformed) || len(reasons) > 0 {
		t.Errorf("%d lines for %d refusals", refused, len(malformed))
	}
	if got := broker.Received("t"); !slices.Equal(got, []string{"still serving"}) {
		t.Errorf("logged %q", got)
	}
}

// A payload without messages leaves nothing in the log. Neither does a port probe.
func TestEmptyPayloads(t *testing.T) {
	broker := start(t, nil)
	before := bustest.Lines(t, broker.Log.String())
	broker.Accept("", 0)
	broker.Accept("\x90", 0)
	broker.Dial().Close()
	reset := broker.Dial()
	reset.SetLinger(0) // Close sends a reset
	reset.Close()
	broker.Accept("", 0)
	broker.Close()
	want := append(before, "Broker: stopped")
	if got := bustest.Lines(t, broker.Log.String()); !slices.Equal(got, want) {
		t.Errorf("the log is\n%s", strings.Join(got, "\n"))
	}
}

// A producer that never reads the reply, as the tutorial's, is served like all others.
func TestProducerThatHangsUp(t *testing.T) {
	broker := start(t, nil)
	for range 20 {
		connection := broker.Dial()
		connection.Put(bustest.Payload("t", "1"))
		connection.Close()
	}
	broker.Accept(bustest.Payload("t", "1"), 1)
	broker.Close()
	if got := broker.Received("t"); len(got) != 21 {
		t.Errorf("%d of 21 messages were logged", len(got))
	}
}

// A connection that is reset in the middle of its payload harms nobody else.
func TestReset(t *testing.T) {
	broker := start(t, nil)
	connection := broker.Dial()
	connection.Put(bustest.Payload("t", "lost")[:10])
	connection.SetLinger(0)
	connection.Close()
	broker.Accept(bustest.Payload("t", "kept"), 1)
	broker.Close()
	if got := broker.Received("t"); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("logged %q", got)
	}
	// The reset may overtake the ten bytes. Then the broker takes it for a port probe.
	const reason = ": the connection broke: read: connection reset by peer"
	for _, line := range bustest.Lines(t, broker.Log.String()) {
		if strings.HasPrefix(line, "refused") && !strings.HasSuffix(line, reason) {
			t.Error(line)
		}
	}
}

// A payload that does not end is refused at the deadline, and the next one is served. The first
// client stops after a byte, the second after a message, and the third never stops.
func TestSilentClients(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Timeout = time.Second })
	want := apiv1.Reply{Error: "the payload did not end within 1s: half-close after the last byte"}
	silent := broker.Dial()
	silent.Put("\x92")
	unended := broker.Dial()
	unended.Put(bustest.Payload("t", "unended"))
	slow := broker.Dial()
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for {
			if _, err := io.WriteString(slow, "\x90"); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	for _, connection := range []*bustest.Conn{silent, unended} {
		if reply := connection.Reply(); *reply != want {
			t.Errorf("got %+v", *reply)
		}
		connection.Close() // otherwise the broker waits for more input to discard
	}
	// The third client is still sending, so its connection may be reset after the reply.
	answer := make([]byte, 4096)
	count, err := io.ReadAtLeast(slow, answer, 50)
	if err != nil || !strings.Contains(string(answer[:count]), want.Error) {
		t.Errorf("got %q, %v", answer[:count], err)
	}
	slow.Close()
	<-stop
	broker.Accept(bustest.Payload("t", "served"), 1)
	broker.Close()
	if got := broker.Received("t"); !slices.Equal(got, []string{"served"}) {
		t.Errorf("logged %q", got)
	}
}

// The largest payload is accepted. One byte more is refused.
func TestMaxPayload(t *testing.T) {
	whole := bustest.Payload("t", strings.Repeat("x", 100_000))
	broker := start(t, func(config *BrokerConfig) { config.MaxPayload = len(whole) })
	broker.Accept(whole, 1)
	broker.Accept(whole[:len(whole)-100_000-5]+"\xc0", 1)
	broker.Refuse(whole+"x", fmt.Sprintf(
		"the payload is too large: more than %d bytes (-max-payload)", len(whole)))
	broker.Accept(whole, 1)

	tiny := start(t, func(config *BrokerConfig) { config.MaxPayload = 1 })
	tiny.Accept("\x90", 0)
	tiny.Refuse("\x90\x90", "the payload is too large: more than 1 bytes (-max-payload)")

	huge := start(t, func(config *BrokerConfig) { config.MaxPayload = math.MaxInt })
	huge.Accept(bustest.Payload("t", strings.Repeat("x", minInput)), 1)
}

// A producer that is refused while it is sending can read the reason, and can send more for
// some time.
func TestRefusalReachesASender(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.MaxPayload = 1000 })
	want := apiv1.Reply{Error: "the payload is too large: more than 1000 bytes (-max-payload)"}
	sending := broker.Dial()
	sending.Put("\x82" + strings.Repeat("x", 2000))
	broker.Expect(fmt.Sprintf("refused payload from %s: %s", sending.LocalAddr(), want.Error))
	for range 10 {
		sending.Put(strings.Repeat("x", 100_000))
	}
	if reply := sending.Reply(); *reply != want {
		t.Errorf("got %+v", *reply)
	}
	for range 10 {
		sending.Put(strings.Repeat("x", 100_000)) // even after the reply
	}
	sending.Close()

	// The connection of a producer that sends more than the broker discards is reset after
	// the reply.
	flood := broker.Dial()
	if _, err := flood.Write(bytes.Repeat([]byte("\x82"), 64<<20)); err == nil {
		t.Error("64 MiB were taken")
	}
	if answer, _ := io.ReadAll(flood); !strings.Contains(string(answer), want.Error) {
		t.Errorf("the answer is %q", answer)
	}
	broker.Accept("", 0)
}

// A refused producer that does not close delays others for a second, not for the time-out.
func TestRefusedProducerThatStays(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) {
		config.MaxPayload = 1000
		config.Timeout = time.Hour
	})
	staying := broker.Dial()
	staying.Put("\x82" + strings.Repeat("x", 2000))
	broker.Accept(bustest.Payload("t", "1"), 1)
}

// A client of another protocol is refused after its first byte. It delays others for less than
// a second, even if it keeps the connection.
func TestOtherProtocolsAreRefusedAtOnce(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Timeout = time.Hour })
	want := apiv1.Reply{Error: "message 1: is an integer, must be a map of Topic and Data"}
	best := time.Hour // of several tries, because a busy machine may delay some
	for range 5 {
		begin := time.Now()
		browser := broker.Dial()
		browser.Put("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if reply := browser.Reply(); *reply != want {
			t.Errorf("got %+v", *reply)
		}
		broker.Accept(bustest.Payload("t", "behind a browser that keeps its connection"), 1)
		best = min(best, time.Since(begin))
	}
	if best >= graceTime {
		t.Errorf("the next was served after %s at best", best)
	}
}

// Clients that send nothing delay nobody. They are served once they send or end.
func TestSilentClientsDelayNobody(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux keeps silent connections in the kernel")
	}
	broker := start(t, func(config *BrokerConfig) { config.Timeout = time.Hour })
	first, second, third := broker.Dial(), broker.Dial(), broker.Dial()
	broker.Accept(bustest.Payload("t", "1"), 1)
	second.End(bustest.Payload("t", "2"))
	if reply := second.Reply(); *reply != (apiv1.Reply{Accepted: 1}) {
		t.Errorf("the client that sent late: %+v", *reply)
	}
	first.End("")
	if reply := first.Reply(); *reply != (apiv1.Reply{}) {
		t.Errorf("the client that only half-closed: %+v", *reply)
	}
	third.Close()
	broker.Accept(bustest.Payload("t", "3"), 1)
	broker.Close()
	if got := broker.Received("t"); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("logged %q", got)
	}
}
