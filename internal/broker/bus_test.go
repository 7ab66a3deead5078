package broker

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// patience is how long a test waits for what must come, at the most.
const patience = 20 * time.Second

// record is a log that a test can read while the broker writes it.
type record struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (record *record) Write(text []byte) (int, error) {
	record.mutex.Lock()
	defer record.mutex.Unlock()
	return record.text.Write(text)
}

func (record *record) String() string {
	record.mutex.Lock()
	defer record.mutex.Unlock()
	return record.text.String()
}

func (record *record) reset() {
	record.mutex.Lock()
	defer record.mutex.Unlock()
	record.text.Reset()
}

var stamp = regexp.MustCompile(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)

// lines returns the lines of a log without their time stamps, which it checks.
func lines(t *testing.T, text string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(text) {
		bare := stamp.ReplaceAllString(line, "")
		if bare == line || !strings.HasSuffix(line, "\n") {
			t.Errorf("not a log line: %.200q", line)
		}
		found = append(found, strings.TrimSuffix(bare, "\n"))
	}
	return found
}

// bus is a broker under test, on a port of its own.
type bus struct {
	*Broker
	t      *testing.T
	record fmt.Stringer // the log
	ended  chan error   // what ProducerListen returned
}

// quiet is an interval at which a test sees no tick but its own drains.
const quiet = time.Hour

// listen returns a broker that does not serve yet. It has no ticks and the other
// defaults, unless set changes that.
func listen(t *testing.T, set func(*BrokerConfig)) *bus {
	t.Helper()
	bus := &bus{t: t, ended: make(chan error, 1)}
	config := DefaultConfig()
	config.ProducerPort = "0"
	config.Interval = quiet
	config.Log = &record{}
	if set != nil {
		set(config)
	}
	bus.record = config.Log.(fmt.Stringer)
	broker, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	bus.Broker = broker
	return bus
}

// start returns a broker that serves until the test ends, when it must have
// nothing left: no message, no goroutine.
func start(t *testing.T, set func(*BrokerConfig)) *bus {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	bus := listen(t, set)
	go func() { bus.ended <- bus.ProducerListen() }()
	t.Cleanup(func() {
		bus.Close()
		if err := <-bus.ended; err != nil {
			t.Errorf("ProducerListen: %v", err)
		}
		bus.ended <- nil // for a test that waited itself
		until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	})
	bus.expect("Broker: listening on " + bus.Addr().String())
	return bus
}

// until polls until condition holds.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come: %s", what)
		}
	}
}

// expect waits for a line in the log.
func (bus *bus) expect(line string) {
	bus.t.Helper()
	until(bus.t, line, func() bool { return strings.Contains(bus.record.String(), " "+line+"\n") })
}

// dial connects to the broker.
func (bus *bus) dial() *net.TCPConn {
	bus.t.Helper()
	connection, err := net.Dial("tcp", bus.Addr().String())
	if err != nil {
		bus.t.Fatal(err)
	}
	bus.t.Cleanup(func() { connection.Close() })
	connection.SetDeadline(time.Now().Add(patience))
	return connection.(*net.TCPConn)
}

// write sends a payload, half-closed if whole.
func (bus *bus) write(connection *net.TCPConn, payload string, whole bool) {
	bus.t.Helper()
	if _, err := io.WriteString(connection, payload); err != nil {
		bus.t.Fatal(err)
	}
	if whole {
		if err := connection.CloseWrite(); err != nil {
			bus.t.Fatal(err)
		}
	}
}

// reply reads a reply, and the end that must follow it.
func (bus *bus) reply(connection *net.TCPConn) *apiv1.Reply {
	bus.t.Helper()
	answer, err := io.ReadAll(connection)
	if err != nil {
		bus.t.Fatalf("no reply: %v", err)
	}
	reply, err := decoder.NewMsgpackDecoder(1 << 20).DecodeReply(answer)
	if err != nil {
		bus.t.Fatalf("%q: %v", answer, err)
	}
	return reply
}

// send sends a payload and returns the reply.
func (bus *bus) send(payload string) *apiv1.Reply {
	bus.t.Helper()
	connection := bus.dial()
	defer connection.Close()
	bus.write(connection, payload, true)
	return bus.reply(connection)
}

// accept fails the test unless payload is accepted as so many messages.
func (bus *bus) accept(payload string, count int) {
	bus.t.Helper()
	if reply := bus.send(payload); *reply != (apiv1.Reply{Accepted: count}) {
		bus.t.Fatalf("%.100q: %+v, want %d accepted", payload, *reply, count)
	}
}

// refuse fails the test unless payload is refused with reason, in the reply and
// in one line of the log.
func (bus *bus) refuse(payload, reason string) {
	bus.t.Helper()
	if reply := bus.send(payload); *reply != (apiv1.Reply{Error: reason}) {
		bus.t.Fatalf("%.100q: %+v, want refused: %s", payload, *reply, reason)
	}
}

// payload returns one message for each of texts on topic.
func payload(topic string, texts ...string) string {
	var messages []*apiv1.Message
	for _, text := range texts {
		messages = append(messages, &apiv1.Message{Topic: topic, Data: []byte(text)})
	}
	encoded, err := encoder.NewMsgpackEncoder().Encode(messages)
	if err != nil {
		panic(err)
	}
	return string(encoded)
}

// numbered returns the texts "0" to the one before count.
func numbered(count int) []string {
	texts := make([]string, count)
	for i := range texts {
		texts[i] = fmt.Sprint(i)
	}
	return texts
}

// received returns the data of the messages in the log, by topic, in the order in
// which they stand there.
func received(t *testing.T, text string) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	for _, line := range lines(t, text) {
		if rest, ok := strings.CutPrefix(line, "Received new message from topic '"); ok {
			topic, data, _ := strings.Cut(rest, "': '")
			found[topic] = append(found[topic], strings.TrimSuffix(data, "'"))
		}
	}
	return found
}
