package broker

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// The log of one message, line for line.
func TestOneMessage(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Interval = 50 * time.Millisecond })
	broker.Accept(bustest.Payload("orders", "look ma! a new order"), 1)
	broker.Expect("Received new message from topic 'orders': 'look ma! a new order'")
	want := []string{
		"Broker: start listening for incoming producer messages...",
		"Broker: listening on " + broker.Address,
		"creating topic orders",
		"new message dispatched on topic orders",
		"Received new message from topic 'orders': 'look ma! a new order'",
	}
	if got := bustest.Lines(t, broker.Log.String()); !slices.Equal(got, want) {
		t.Errorf("the log is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// All messages of a payload are accepted with one reply, and logged in order.
func TestPayloadOf1000(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Interval = time.Millisecond })
	texts := bustest.Numbers(0, 999)
	broker.Accept(bustest.Payload("t", texts...), 1000)
	broker.Expect("Received new message from topic 't': '999'")
	broker.Expect("1000 new messages dispatched on topic t")
	if got := broker.Received("t"); !slices.Equal(got, texts) {
		t.Errorf("logged %d messages, not those that were sent in order", len(got))
	}
}

// A payload with several topics has one notice for each. The messages of each topic are
// logged in order.
func TestPayloadOfSeveralTopics(t *testing.T) {
	broker := start(t, nil)
	var several string
	for _, text := range []string{"1", "2", "3"} {
		several += bustest.Payload("a", text) + bustest.Payload("b", text)
	}
	broker.Accept("\x97"+several+bustest.Payload("c", "1"), 7)
	broker.Close()
	want := []string{
		"creating topic a", "creating topic b", "creating topic c",
		"3 new messages dispatched on topic a",
		"3 new messages dispatched on topic b",
		"new message dispatched on topic c",
	}
	got := bustest.Lines(t, broker.Log.String())[2:]
	if len(got) != len(want)+8 || !slices.Equal(got[:len(want)], want) {
		t.Errorf("the log is\n%s", strings.Join(got, "\n"))
	}
	topics := map[string][]string{"a": {"1", "2", "3"}, "b": {"1", "2", "3"}, "c": {"1"}}
	if got := bustest.Received(t, broker.Log.String()); !reflect.DeepEqual(got, topics) {
		t.Errorf("logged %q", got)
	}
}

// A log that works gets all lines of a payload that makes very many topics.
func TestPayloadOfManyTopics(t *testing.T) {
	broker := start(t, nil)
	const count = 30_000
	var several strings.Builder
	several.Write([]byte{0xdc, count >> 8, count & 0xff})
	for i := range count {
		several.WriteString(bustest.Payload(fmt.Sprint("topic ", i), ""))
	}
	broker.Accept(several.String(), count)
	broker.Close()
	text := broker.Log.String()
	for _, kind := range []string{
		"creating topic ", "new message dispatched on topic ", "Received new message from topic '",
	} {
		if got := strings.Count(text, " "+kind); got != count {
			t.Errorf("%d lines of %d: %s", got, count, kind)
		}
	}
}

// The log has all messages in the order of acceptance, whatever their topics.
func TestOrderOverAllTopics(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Interval = time.Millisecond })
	next, random := 0, rand.New(rand.NewPCG(1, 2))
	for range 300 {
		count := 1 + random.IntN(15)
		several := string([]byte{byte(0x90 + count)})
		for range count {
			several += bustest.Payload(fmt.Sprint("topic ", random.IntN(5)), fmt.Sprint(next))
			next++
		}
		broker.Accept(several, count)
	}
	broker.Close()
	at := 0
	for _, line := range bustest.Lines(t, broker.Log.String()) {
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

// The loop makes topics while the ticker goroutine drains. The race detector would find a drain
// that iterates over the map of topics without a lock, as the tutorial's does.
func TestDrainWhileTopicsAreMade(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Interval = time.Microsecond })
	const count = 2000
	for i := range count {
		broker.Accept(bustest.Payload(fmt.Sprint("topic ", i%500), fmt.Sprint(i)), 1)
	}
	broker.Close()
	want := make(map[string][]string)
	for i := range count {
		topic := fmt.Sprint("topic ", i%500)
		want[topic] = append(want[topic], fmt.Sprint(i))
	}
	if got := bustest.Received(t, broker.Log.String()); !reflect.DeepEqual(got, want) {
		t.Errorf("logged %d topics, not what was sent in order", len(got))
	}
	// No message is in the log before its notice.
	noticed := make(map[string]int)
	for _, line := range bustest.Lines(t, broker.Log.String()) {
		if topic, ok := strings.CutPrefix(line, "new message dispatched on topic "); ok {
			noticed[topic]++
		} else if rest, ok := strings.CutPrefix(line, "Received new message from topic '"); ok {
			topic, _, _ := strings.Cut(rest, "'")
			if noticed[topic]--; noticed[topic] < 0 {
				t.Fatalf("there is no notice before %s", line)
			}
		}
	}
}

// HandleNewMessage puts each message into its topic, and Drain writes them.
func TestHandleNewMessage(t *testing.T) {
	broker := listen(t, nil)
	defer broker.Close()
	for _, text := range []string{"1", "2"} {
		broker.HandleNewMessage(&apiv1.Message{Topic: "t", Data: []byte(text)})
	}
	topic := broker.topics["t"]
	if topic == nil || topic.Name != "t" || topic.Queue.Len() != 2 {
		t.Fatalf("the topic is %+v", topic)
	}
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"creating topic t",
		"Received new message from topic 't': '1'",
		"Received new message from topic 't': '2'",
	}
	if got := bustest.Lines(t, broker.Log.String()); !slices.Equal(got, want) {
		t.Errorf("the log is %q", got)
	}
	if broker.topics["t"] != topic || topic.Queue.Len() != 0 ||
		unwritten(broker.Broker) != 0 || broker.used != topicBytes("t") {
		t.Errorf("left: %d messages, %d bytes", unwritten(broker.Broker), broker.used)
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
