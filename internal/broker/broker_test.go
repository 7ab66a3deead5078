package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/apiv1"
)

// The log of one message, line for line.
func TestOneMessage(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Interval = 50 * time.Millisecond })
	bus.accept(payload("orders", "look ma! a new order"), 1)
	bus.expect("Received new message from topic 'orders': 'look ma! a new order'")
	want := []string{
		"Broker: start listening for incoming producer messages...",
		"Broker: listening on " + bus.Addr().String(),
		"creating topic orders",
		"new message dispatched on topic orders",
		"Received new message from topic 'orders': 'look ma! a new order'",
	}
	if got := lines(t, bus.record.String()); !slices.Equal(got, want) {
		t.Errorf("the log is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// All lines but the drain's come at once, not with the next tick.
func TestNoticesComeAtOnce(t *testing.T) {
	bus := start(t, nil)
	begin := time.Now()
	bus.accept(payload("t", "1", "2"), 2)
	bus.expect("creating topic t")
	bus.expect("2 new messages dispatched on topic t")
	bus.refuse("\xc0", "message 1: is nil, must be a map of Topic and Data")
	until(t, "the refusal in the log", func() bool { return strings.Contains(bus.record.String(), "refused payload") })
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	if got := received(t, bus.record.String())["t"]; got != nil {
		t.Errorf("%q were drained without a tick", got)
	}
}

// One payload is accepted as one and logged in order.
func TestPayloadOf1000(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Interval = time.Millisecond })
	texts := numbered(1000)
	bus.accept(payload("t", texts...), 1000)
	bus.expect("Received new message from topic 't': '999'")
	bus.expect("1000 new messages dispatched on topic t")
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, texts) {
		t.Errorf("logged %d messages, not those that were sent in order", len(got))
	}
}

// A payload with several topics is announced once for each, and every topic is
// logged in order.
func TestPayloadOfSeveralTopics(t *testing.T) {
	bus := start(t, nil)
	var several string
	for _, text := range []string{"1", "2", "3"} {
		several += payload("a", text) + payload("b", text)
	}
	bus.accept("\x97"+several+payload("c", "1"), 7)
	bus.Close()
	want := []string{
		"creating topic a", "creating topic b", "creating topic c",
		"3 new messages dispatched on topic a", "3 new messages dispatched on topic b", "new message dispatched on topic c",
	}
	got := lines(t, bus.record.String())[2:]
	if len(got) != len(want)+8 || !slices.Equal(got[:len(want)], want) {
		t.Errorf("the log is\n%s", strings.Join(got, "\n"))
	}
	topics := map[string][]string{"a": {"1", "2", "3"}, "b": {"1", "2", "3"}, "c": {"1"}}
	if got := received(t, bus.record.String()); !reflect.DeepEqual(got, topics) {
		t.Errorf("logged %q", got)
	}
}

// However many topics a payload makes, a log that works gets all of its lines.
func TestPayloadOfManyTopics(t *testing.T) {
	bus := start(t, nil)
	const count = 30_000
	var several strings.Builder
	several.Write([]byte{0xdc, count >> 8, count & 0xff})
	for i := range count {
		several.WriteString(payload(fmt.Sprint("topic ", i), ""))
	}
	bus.accept(several.String(), count)
	bus.Close()
	text := bus.record.String()
	for _, kind := range []string{"creating topic ", "new message dispatched on topic ", "Received new message from topic '"} {
		if got := strings.Count(text, " "+kind); got != count {
			t.Errorf("%d lines of %d: %s", got, count, kind)
		}
	}
}

// malformed payloads with the reason of each.
var malformed = map[string]string{
	"G":                                      "message 1: is an integer, must be a map of Topic and Data",
	"\xa5hello":                              "message 1: is a string, must be a map of Topic and Data",
	"\xc0":                                   "message 1: is nil, must be a map of Topic and Data",
	"\xc1":                                   "message 1: is the unused byte 0xc1, must be a map of Topic and Data",
	"\xc2":                                   "message 1: is a boolean, must be a map of Topic and Data",
	"\xca\x00\x00\x00\x00":                   "message 1: is a float, must be a map of Topic and Data",
	"\xc4\x00":                               "message 1: is binary, must be a map of Topic and Data",
	"\xd4\x01\x00":                           "message 1: is an extension, must be a map of Topic and Data",
	"\x91\x90":                               "message 1: is an array, must be a map of Topic and Data",
	"\xdc\x00":                               "the payload ends early, in its array header",
	"\x92" + payload("t", "1"):               "message 2: ends early, in its map header",
	payload("t", "1") + "\x00":               "the payload has 1 bytes after its end",
	"\x80":                                   "message 1: has 0 entries, must have 2: Topic and Data",
	"\x83":                                   "message 1: has 3 entries, must have 2: Topic and Data",
	"\x82\x01":                               "message 1: key 1 is an integer, must be a string",
	"\x82\xa3Foo":                            `message 1: unknown entry "Foo", must be "Topic" or "Data"`,
	"\x82\xa5Topic\x05":                      `message 1: entry "Topic" is an integer, must be a string`,
	"\x82\xa5Topic\xa0":                      `message 1: entry "Topic" is 0 bytes long, must be 1 to 255`,
	"\x82\xa5Topic\xa1\x07":                  `message 1: entry "Topic" is not printable UTF-8 at byte 1`,
	"\x82\xa5Topic\xdb\xff\xff\xff\xffx":     `message 1: ends early, in entry "Topic": 4294967295 bytes declared, 1 are there`,
	"\x82\xa5Topic\xa1t\xa5Topic\xa1t":       `message 1: entry "Topic" is there twice`,
	"\x82\xa5Topic\xa1t\xa4Data\x05":         `message 1: entry "Data" is an integer, must be binary, a string or nil`,
	"\x82\xa5Topic\xa1t\xa4Data\xc6\xff\xff": `message 1: ends early, in entry "Data"`,
	payload("t", "cut")[:18]:                 `message 1: ends early, in entry "Data": 3 bytes declared, 2 are there`,
}

// Malformed payloads are refused one after the other, each with its reason, in
// one line of the log each, and nothing of them is queued.
func TestMalformedPayloads(t *testing.T) {
	bus := start(t, nil)
	reasons := make(map[string]bool)
	for payload, reason := range malformed {
		bus.refuse(payload, reason)
		reasons[reason] = true
	}
	if len(reasons) < 20 || len(reasons) != len(malformed) {
		t.Errorf("%d payloads have %d reasons", len(malformed), len(reasons))
	}
	bus.accept(payload("t", "still serving"), 1)
	bus.Close()
	var refused int
	for _, line := range lines(t, bus.record.String()) {
		if rest, ok := strings.CutPrefix(line, "refused payload from 127.0.0.1:"); ok {
			_, reason, _ := strings.Cut(rest, ": ")
			if !reasons[reason] {
				t.Errorf("a line that no payload is the reason for: %s", line)
			}
			delete(reasons, reason)
			refused++
		}
	}
	if refused != len(malformed) || len(reasons) > 0 {
		t.Errorf("%d lines for %d refusals", refused, len(malformed))
	}
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, []string{"still serving"}) {
		t.Errorf("logged %q", got)
	}
}

// Payloads without a message leave nothing in the log, nor does a port probe.
func TestEmptyPayloads(t *testing.T) {
	bus := start(t, nil)
	before := lines(t, bus.record.String())
	bus.accept("", 0)
	bus.accept("\x90", 0)
	bus.dial().Close()
	reset := bus.dial()
	reset.SetLinger(0) // Close sends a reset
	reset.Close()
	bus.accept("", 0)
	bus.Close()
	if got := lines(t, bus.record.String()); !slices.Equal(got, append(before, "Broker: stopped")) {
		t.Errorf("the log has become\n%s", strings.Join(got, "\n"))
	}
}

// A producer that never reads the reply, as the tutorial's, is served the same.
func TestProducerThatHangsUp(t *testing.T) {
	bus := start(t, nil)
	for range 20 {
		connection := bus.dial()
		bus.write(connection, payload("t", "1"), false)
		connection.Close()
	}
	bus.accept(payload("t", "1"), 1)
	bus.Close()
	if got := received(t, bus.record.String())["t"]; len(got) != 21 {
		t.Errorf("%d of 21 messages were logged", len(got))
	}
}

// A connection that is reset in the middle of its payload costs nobody else.
func TestReset(t *testing.T) {
	bus := start(t, nil)
	connection := bus.dial()
	bus.write(connection, payload("t", "lost")[:10], false)
	connection.SetLinger(0)
	connection.Close()
	bus.accept(payload("t", "kept"), 1)
	bus.Close()
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, []string{"kept"}) {
		t.Errorf("logged %q", got)
	}
	// The reset may overtake the ten bytes; then it was a port probe.
	for _, line := range lines(t, bus.record.String()) {
		if strings.HasPrefix(line, "refused") && !strings.HasSuffix(line, ": the connection broke: read: connection reset by peer") {
			t.Error(line)
		}
	}
}

// A client that stops after a byte, or does not end, or sends a byte now and then,
// is refused when its time is up, and the next is served.
func TestSilentClients(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Second })
	want := apiv1.Reply{Error: "the payload did not end within 1s: half-close after the last byte"}
	silent := bus.dial()
	bus.write(silent, "\x92", false)
	unended := bus.dial()
	bus.write(unended, payload("t", "unended"), false)
	slow := bus.dial()
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
	for _, connection := range []*net.TCPConn{silent, unended} {
		if reply := bus.reply(connection); *reply != want {
			t.Errorf("got %+v", *reply)
		}
		connection.Close() // else the broker waits for unread input
	}
	// This one goes on sending, so it may be reset after the reply.
	answer := make([]byte, 4096)
	if count, err := io.ReadAtLeast(slow, answer, 50); err != nil || !strings.Contains(string(answer[:count]), want.Error) {
		t.Errorf("got %q, %v", answer[:count], err)
	}
	slow.Close()
	<-stop
	bus.accept(payload("t", "served"), 1)
	bus.Close()
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, []string{"served"}) {
		t.Errorf("logged %q", got)
	}
}

// The largest payload is taken, and one byte more is refused.
func TestMaxPayload(t *testing.T) {
	whole := payload("t", strings.Repeat("x", 100_000))
	bus := start(t, func(config *BrokerConfig) { config.MaxPayload = len(whole) })
	bus.accept(whole, 1)
	bus.accept(whole[:len(whole)-100_000-5]+"\xc0", 1)
	bus.refuse(whole+"x", fmt.Sprintf("the payload is too large: more than %d bytes (-max-payload)", len(whole)))
	bus.accept(whole, 1)

	tiny := start(t, func(config *BrokerConfig) { config.MaxPayload = 1 })
	tiny.accept("\x90", 0)
	tiny.refuse("\x90\x90", "the payload is too large: more than 1 bytes (-max-payload)")
}

// A producer that is still sending when it is refused gets to read why, and can
// go on sending for a while.
func TestRefusalReachesASender(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.MaxPayload = 1000 })
	want := apiv1.Reply{Error: "the payload is too large: more than 1000 bytes (-max-payload)"}
	sending := bus.dial()
	bus.write(sending, "\x82"+strings.Repeat("x", 2000), false)
	until(t, "the refusal", func() bool { return strings.Contains(bus.record.String(), want.Error) })
	for range 10 {
		bus.write(sending, strings.Repeat("x", 100_000), false)
	}
	if reply := bus.reply(sending); *reply != want {
		t.Errorf("got %+v", *reply)
	}
	for range 10 {
		bus.write(sending, strings.Repeat("x", 100_000), false) // after the reply's end, too
	}
	sending.Close()

	// One that sends more than is discarded is reset, but not before the reply.
	endless := bus.dial()
	if _, err := endless.Write(bytes.Repeat([]byte("\x82"), 64<<20)); err == nil {
		t.Error("64 MiB were taken")
	}
	if answer, _ := io.ReadAll(endless); !strings.Contains(string(answer), want.Error) {
		t.Errorf("the answer is %q", answer)
	}
	bus.accept("", 0)
}

// One that is refused and stays delays others for a second, not for the time-out.
func TestRefusedProducerThatStays(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) {
		config.MaxPayload = 1000
		config.Timeout = time.Hour
	})
	staying := bus.dial()
	bus.write(staying, "\x82"+strings.Repeat("x", 2000), false)
	bus.accept(payload("t", "1"), 1)
}

// A client of another protocol that waits for an answer is refused by its first
// byte, and delays others only until it is clear that it sends no more.
func TestOtherProtocolsAreRefusedAtOnce(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Hour })
	want := apiv1.Reply{Error: "message 1: is an integer, must be a map of Topic and Data"}
	best := time.Hour // a busy machine may hold up some
	for range 5 {
		begin := time.Now()
		browser := bus.dial()
		bus.write(browser, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", false)
		if reply := bus.reply(browser); *reply != want {
			t.Errorf("got %+v", *reply)
		}
		bus.accept(payload("t", "behind a browser that keeps its connection"), 1)
		best = min(best, time.Since(begin))
	}
	if best >= graceTime {
		t.Errorf("the next was served after %s at best", best)
	}
}

// Clients that send nothing delay nobody, and are served once they send or end.
func TestSilentClientsDelayNobody(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux keeps silent connections in the kernel")
	}
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Hour })
	first, second, third := bus.dial(), bus.dial(), bus.dial()
	bus.accept(payload("t", "1"), 1)
	bus.write(second, payload("t", "2"), true)
	if reply := bus.reply(second); *reply != (apiv1.Reply{Accepted: 1}) {
		t.Errorf("who sent late: %+v", *reply)
	}
	bus.write(first, "", true)
	if reply := bus.reply(first); *reply != (apiv1.Reply{}) {
		t.Errorf("who only half-closed: %+v", *reply)
	}
	third.Close()
	bus.accept(payload("t", "3"), 1)
	bus.Close()
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("logged %q", got)
	}
}

// The log has all messages in the order of acceptance, whatever their topics.
func TestOrderOverAllTopics(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Interval = time.Millisecond })
	next, random := 0, rand.New(rand.NewPCG(1, 2))
	for range 300 {
		count := 1 + random.IntN(15)
		several := string([]byte{byte(0x90 + count)})
		for range count {
			several += payload(fmt.Sprint("topic ", random.IntN(5)), fmt.Sprint(next))
			next++
		}
		bus.accept(several, count)
	}
	bus.Close()
	at := 0
	for _, line := range lines(t, bus.record.String()) {
		if _, data, found := strings.Cut(line, "': '"); found {
			if data != fmt.Sprintf("%d'", at) {
				t.Fatalf("message %d of the log is %s", at, line)
			}
			at++
		}
	}
	if at != next {
		t.Errorf("%d messages of %d are in the log", at, next)
	}
}

// The tutorial's drain iterates over the topics while the loop adds some. Run
// with the race detector.
func TestDrainWhileTopicsAreMade(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Interval = time.Microsecond })
	const count = 2000
	for i := range count {
		bus.accept(payload(fmt.Sprint("topic ", i%500), fmt.Sprint(i)), 1)
	}
	bus.Close()
	want := make(map[string][]string)
	for i := range count {
		topic := fmt.Sprint("topic ", i%500)
		want[topic] = append(want[topic], fmt.Sprint(i))
	}
	if got := received(t, bus.record.String()); !reflect.DeepEqual(got, want) {
		t.Errorf("logged %d topics, not what was sent in order", len(got))
	}
	// No message overtakes the line that it was queued.
	announced := make(map[string]int)
	for _, line := range lines(t, bus.record.String()) {
		if topic, ok := strings.CutPrefix(line, "new message dispatched on topic "); ok {
			announced[topic]++
		} else if rest, ok := strings.CutPrefix(line, "Received new message from topic '"); ok {
			topic, _, _ := strings.Cut(rest, "'")
			if announced[topic]--; announced[topic] < 0 {
				t.Fatalf("%s: it was not queued yet", line)
			}
		}
	}
}

// HandleNewMessage and Drain are all that a message needs besides a connection.
func TestHandleNewMessage(t *testing.T) {
	bus := listen(t, nil)
	defer bus.Close()
	for _, text := range []string{"1", "2"} {
		bus.HandleNewMessage(&apiv1.Message{Topic: "t", Data: []byte(text)})
	}
	bus.announceLocked()
	topic := bus.topics["t"]
	if topic == nil || topic.Name != "t" || topic.Queue.Len() != 2 {
		t.Fatalf("the topic is %+v", topic)
	}
	if err := bus.Drain(); err != nil {
		t.Fatal(err)
	}
	want := []string{"creating topic t", "2 new messages dispatched on topic t", "Received new message from topic 't': '1'", "Received new message from topic 't': '2'"}
	if got := lines(t, bus.record.String()); !slices.Equal(got, want) {
		t.Errorf("the log is %q", got)
	}
	if bus.topics["t"] != topic || topic.Queue.Len() != 0 || bus.state.queuedMessages != 0 || bus.state.accountedBytes != topicBytes("t") {
		t.Errorf("left: %d messages, %d bytes", bus.state.queuedMessages, bus.state.accountedBytes)
	}
}

func TestTopic(t *testing.T) {
	topic := NewTopic("orders")
	if topic.Name != "orders" || topic.Queue.Len() != 0 {
		t.Fatalf("a new topic is %+v", topic)
	}
	first, second := &apiv1.Message{Topic: "orders"}, &apiv1.Message{Topic: "orders"}
	topic.Dispatch(first)
	topic.Dispatch(second)
	if topic.Queue.Len() != 2 || topic.Queue.Dequeue() != first || topic.Queue.Dequeue() != second {
		t.Error("messages are not dispatched in order")
	}
}

// The ticker goroutine drains at every interval, and only then, and writes
// notices as they come.
func TestTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := listen(t, func(config *BrokerConfig) { config.Interval = 3 * time.Second })
		defer bus.Close()
		stopping := make(chan struct{})
		go func() { bus.ended <- bus.tickLoop(stopping) }()
		queue := func(text string) {
			if err := bus.enqueue([]*apiv1.Message{{Topic: "t", Data: []byte(text)}}, time.Now()); err != nil {
				t.Error(err)
			}
		}
		expect := func(notices int, texts ...string) {
			t.Helper()
			synctest.Wait()
			if got := received(t, bus.record.String())["t"]; !slices.Equal(got, texts) {
				t.Errorf("drained %q, want %q", got, texts)
			}
			if got := strings.Count(bus.record.String(), "dispatched on"); got != notices {
				t.Errorf("%d notices, want %d", got, notices)
			}
		}
		queue("1")
		queue("2") // its notice goes with the other
		time.Sleep(noticeTime - time.Nanosecond)
		expect(0)
		time.Sleep(time.Nanosecond)
		expect(2)
		queue("3")
		time.Sleep(noticeTime)
		expect(3)
		time.Sleep(3*time.Second - 2*noticeTime - time.Nanosecond)
		queue("4")
		expect(3)
		time.Sleep(time.Nanosecond)
		expect(4, "1", "2", "3", "4")
		queue("5")
		time.Sleep(3*time.Second - time.Nanosecond)
		expect(5, "1", "2", "3", "4")
		queue("6")
		close(stopping)
		expect(6, "1", "2", "3", "4", "5", "6")
		if err := <-bus.ended; err != nil {
			t.Error(err)
		}
	})
}

// What waits when the broker is closed is served: a connection in hand until its
// deadline, and those in the backlog.
func TestCloseServesThoseWhoWait(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	inHand := bus.dial()
	bus.write(inHand, payload("t", "in hand")[:15], false)
	var waiting []*net.TCPConn
	for i := range 50 {
		connection := bus.dial()
		bus.write(connection, payload("t", fmt.Sprint(i)), true)
		waiting = append(waiting, connection)
	}
	closed := make(chan struct{})
	go func() {
		bus.Close()
		close(closed)
	}()
	<-bus.stopping
	bus.write(inHand, payload("t", "in hand")[15:], true)
	for _, connection := range append(waiting, inHand) {
		if reply := bus.reply(connection); *reply != (apiv1.Reply{Accepted: 1}) {
			t.Errorf("got %+v", *reply)
		}
	}
	<-closed
	want := append([]string{"in hand"}, numbered(50)...)
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, want) {
		t.Errorf("logged %q", got)
	}
	if _, err := net.Dial("tcp", bus.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed broker answers %v", err)
	}
}

// Who can't be served before a stopping broker ends is told so.
func TestCloseRefusesWhomItCantServe(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	inHand, silent, waiting := bus.dial(), bus.dial(), bus.dial()
	message := payload("t", "in hand")
	bus.write(inHand, message[:1], false)
	bus.write(silent, "\x82", false)
	bus.write(waiting, payload("t", "too late"), true)
	until(t, "the connection in hand", func() bool {
		// The broker is in the middle of it when a probe is not answered.
		probe := bus.dial()
		defer probe.Close()
		probe.CloseWrite()
		probe.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := probe.Read(make([]byte, 1))
		return err != nil
	})
	closed := make(chan struct{})
	go func() {
		bus.Close()
		close(closed)
	}()
	<-bus.stopping
	bus.write(inHand, message[1:], true)
	if reply := bus.reply(inHand); *reply != (apiv1.Reply{Accepted: 1}) {
		t.Errorf("in hand: %+v", *reply)
	}
	for _, connection := range []*net.TCPConn{silent, waiting} {
		if reply := bus.reply(connection); *reply != (apiv1.Reply{Error: "the broker is stopping"}) {
			t.Errorf("got %+v", *reply)
		}
	}
	<-closed
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, []string{"in hand"}) {
		t.Errorf("logged %q", got)
	}
}

// Once it stops, a broker takes no new connections, while it serves those it has.
func TestStopRefusesConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can keep connections out")
	}
	bus := start(t, nil)
	inHand := bus.dial()
	bus.write(inHand, "\x90", false)
	bus.stopAccepting()
	connection, err := net.DialTimeout("tcp", bus.Addr().String(), 100*time.Millisecond)
	if err == nil {
		connection.Close()
		t.Error("a connection came in")
	}
	bus.write(inHand, "", true)
	bus.reply(inHand)
}

// A silent client can't keep a broker from closing.
func TestCloseWithASilentClient(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Second })
	bus.accept(payload("t", "1"), 1)
	inHand, waiting := bus.dial(), bus.dial()
	bus.write(inHand, "\x92", false)
	bus.write(waiting, "\x92", false)
	begin := time.Now()
	go func() {
		bus.reply(inHand)
		inHand.Close()
		bus.reply(waiting)
		waiting.Close()
	}()
	bus.Close()
	bus.Close() // a second time does no harm
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
	bus.expect("Received new message from topic 't': '1'")
}

// A broker that never served can be closed, and one that is closed serves nobody.
func TestCloseBeforeServing(t *testing.T) {
	bus := listen(t, nil)
	bus.Close()
	if err := bus.ProducerListen(); err != nil {
		t.Error(err)
	}
	bus.Close()
}

func TestNewErrors(t *testing.T) {
	bus := listen(t, nil)
	defer bus.Close()
	_, port, _ := net.SplitHostPort(bus.Addr().String())
	config := DefaultConfig()
	config.ProducerPort = port
	if _, err := New(config); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), bus.Addr().String()) {
		t.Errorf("a port that is taken: %v", err)
	}
	config.ProducerPort = "99999"
	if _, err := New(config); err == nil {
		t.Error("New does not validate")
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		set  func(*BrokerConfig)
		want string
	}{
		{func(config *BrokerConfig) {}, ""},
		{func(config *BrokerConfig) { config.ProducerHost = "" }, `-phost "": must be a host, 0.0.0.0 for all interfaces`},
		{func(config *BrokerConfig) { config.ProducerPort = "" }, `-pport "": must be a number from 0 to 65535, 0 for a free port`},
		{func(config *BrokerConfig) { config.ProducerPort = "http" }, `-pport "http": must be a number from 0 to 65535, 0 for a free port`},
		{func(config *BrokerConfig) { config.ProducerPort = "65536" }, `-pport "65536": must be a number from 0 to 65535, 0 for a free port`},
		{func(config *BrokerConfig) { config.ProducerPort = "65535" }, ""},
		{func(config *BrokerConfig) { config.Interval = -1 }, "-interval -1ns: must be a duration of at least 0, such as 3s"},
		{func(config *BrokerConfig) { config.Interval = 0 }, ""},
		{func(config *BrokerConfig) { config.Timeout = 0 }, "-timeout 0s: must be a duration above 0, such as 5s"},
		{func(config *BrokerConfig) { config.Timeout = 1 }, ""},
		{func(config *BrokerConfig) { config.MaxPayload = 0 }, "-max-payload 0: must be a count of bytes, at least 1"},
		{func(config *BrokerConfig) { config.MaxPayload = 1 }, ""},
		{func(config *BrokerConfig) { config.MaxQueued = 0 }, "-max-queued 0: must be a count of bytes, at least 1"},
		{func(config *BrokerConfig) { config.MaxQueued = 1 }, ""},
	} {
		config := DefaultConfig()
		test.set(config)
		got := ""
		if err := config.Validate(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	if got, again := DefaultConfig(), DefaultConfig(); got == again || !reflect.DeepEqual(got, again) {
		t.Error("the defaults are shared or change")
	}
}
