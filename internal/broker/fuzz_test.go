package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
	"mbus/internal/shared/decoder"
)

// model is a simple model of the broker, made of slices and maps, and the broker that is compared
// with it.
type model struct {
	*testing.T
	broker   *testBroker
	log      *faulty
	limit    int // MaxQueued
	topics   map[string]bool
	accepted []string // every accepted message, as "topic data", in order
	order    []string // the topic of each of them
	sizes    []int    // messageBytes of each of them
	notices  []string // every notice about topics, in order
}

// accountedBytes returns how many bytes count as queued when the first written messages were
// written.
func (m *model) accountedBytes(written int) int {
	sum := 0
	for name := range m.topics {
		sum += topicBytes(name)
	}
	for _, size := range m.sizes[written:] {
		sum += size
	}
	return sum
}

// FuzzBroker compares the broker with the model after each of a random sequence of payloads and
// drains, with random limits and a log that fails sometimes. Every two bytes of steps are one
// step: the first selects what to do, the second is a size.
func FuzzBroker(f *testing.F) {
	f.Add(uint16(2000), []byte{1, 1, 2, 2, 200, 0, 3, 3, 130, 50, 1, 9, 200, 0})
	f.Add(uint16(900), []byte{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 200, 0, 1, 1})
	f.Add(uint16(700), []byte{40, 0, 41, 0, 42, 0, 43, 0, 200, 0, 44, 0, 45, 0, 46, 0,
		150, 1, 151, 2, 152, 200, 200, 0})
	f.Add(uint16(900), []byte(" 0 0\x000"))
	f.Add(uint16(2010), []byte("0000\x000"))
	f.Add(uint16(65000), bytes.Repeat([]byte{5, 255, 17, 30, 131, 255}, 60))
	f.Fuzz(func(t *testing.T, limit uint16, steps []byte) {
		if limit == 0 || len(steps) > 400 {
			return
		}
		model := &model{T: t, limit: int(limit), topics: make(map[string]bool)}
		model.broker = listen(t, func(config *BrokerConfig) {
			model.log = faultyLog(config, full)
			config.MaxQueued = int(limit)
		})
		defer model.broker.Close()
		for ; len(steps) >= 2; steps = steps[2:] {
			if what, much := steps[0], int(steps[1]); what < 128 {
				model.payload(what, much)
			} else if what < 192 {
				model.drain(int64(much) * int64(what-127))
			} else {
				model.drain(endless)
			}
		}
		model.drain(endless)
		if queued := unwritten(model.broker.Broker); queued != 0 {
			t.Errorf("%d messages are still queued", queued)
		}
	})
}

// payload queues one message for each bit of what, on a topic that depends on the bit, with
// about much bytes of data, and compares the outcome.
func (m *model) payload(what byte, much int) {
	var messages []*apiv1.Message
	count := make(map[string]int) // of the payload's messages on each topic
	need := 0
	var topics []string // in the order of their first messages
	for bit := range 7 {
		if what&(1<<bit) == 0 {
			continue
		}
		topic := fmt.Sprint("t", bit%3)
		if bit == 6 {
			topic = fmt.Sprint("unique ", len(m.accepted))
		}
		text := fmt.Sprintf("%d.%d:", len(m.accepted), bit) + strings.Repeat("x", much)
		message := &apiv1.Message{Topic: topic, Data: []byte(text)}
		messages = append(messages, message)
		need += messageBytes(message)
		if count[topic]++; count[topic] == 1 {
			need += topicBytes(topic)
			topics = append(topics, topic)
		}
	}
	if !m.enqueue(messages, need) {
		return
	}
	for _, topic := range topics {
		line := "new message dispatched on topic " + topic
		if count[topic] > 1 {
			line = fmt.Sprintf("%d new messages dispatched on topic %s", count[topic], topic)
		}
		m.notices = append(m.notices, line)
	}
}

// enqueue queues messages, which need so many bytes of an empty queue. It returns whether the
// model accepts them, and fails the test if the broker does the opposite.
func (m *model) enqueue(messages []*apiv1.Message, need int) bool {
	before := m.broker.used
	err := m.broker.enqueue(messages, time.Now(), nil)
	want := "<nil>"
	if need > m.limit {
		want = fmt.Sprintf("the payload is too large: "+
			"more than an empty queue takes (-max-queued %d)", m.limit)
	} else if before+need > m.limit {
		before -= m.forgetTopics()
		if before+need > m.limit {
			want = "queue is full"
		}
	}
	if got := fmt.Sprint(err); got != want {
		m.Fatalf("%d messages: %s, want %s", len(messages), got, want)
	}
	if err != nil {
		if after := m.broker.used; after != before {
			m.Fatalf("a refused payload changed what counts from %d to %d", before, after)
		}
		return false
	}
	for _, message := range messages {
		m.accepted = append(m.accepted, message.Topic+" "+string(message.Data))
		m.order = append(m.order, message.Topic)
		m.sizes = append(m.sizes, messageBytes(message))
		if !m.topics[message.Topic] {
			m.topics[message.Topic] = true
			m.notices = append(m.notices, "creating topic "+message.Topic)
		}
	}
	if queued := m.broker.used; queued > m.limit {
		m.Fatalf("%d bytes are queued, over the limit %d", queued, m.limit)
	}
	return true
}

// forgetTopics forgets the topics without a message in the queues, and returns how many bytes they
// used.
func (m *model) forgetTopics() (freed int) {
	queued := make(map[string]bool)
	for _, name := range m.order[m.broker.taken:] {
		queued[name] = true
	}
	for name := range m.topics {
		if !queued[name] {
			delete(m.topics, name)
			freed += topicBytes(name)
		}
	}
	return freed
}

// drain drains into a log that accepts budget bytes. It compares the log, and how much still
// counts as queued.
func (m *model) drain(budget int64) {
	m.log.budget.Store(budget)
	err := m.broker.Drain()
	accepted, noticed := len(m.accepted), len(m.notices)
	written, notices := m.compareLog()
	if queued := unwritten(m.broker.Broker); queued != accepted-written {
		m.Fatalf("%d messages count as queued, and %d of %d were written",
			queued, written, accepted)
	}
	if err != nil {
		if left := m.log.budget.Load(); !errors.Is(err, syscall.ENOSPC) || left != 0 {
			m.Fatalf("Drain returns %v with %d bytes to go", err, left)
		}
	} else if written != accepted || notices != noticed {
		m.Fatalf("%d of %d messages and %d of %d notices were written",
			written, accepted, notices, noticed)
	}
	if got, want := len(m.broker.topics), len(m.topics); got != want {
		m.Fatalf("%d topics are known, want %d", got, want)
	}
	if want := m.accountedBytes(written); m.broker.used != want {
		m.Fatalf("%d bytes count as queued, want %d", m.broker.used, want)
	}
}

// compareLog fails the test unless the log has the first accepted messages and the first
// notices, in order, and each message after its notice. It returns how many of each it has.
func (m *model) compareLog() (messages, notices int) {
	text := m.log.String()
	text = text[:strings.LastIndexByte(text, '\n')+1] // a torn line may follow
	noticed := make(map[string]int)                   // messages that have only a notice, by topic
	for _, line := range bustest.Lines(m, text) {
		if rest, ok := strings.CutPrefix(line, "Received new message from topic '"); ok {
			topic, data, _ := strings.Cut(strings.TrimSuffix(rest, "'"), "': '")
			if messages == len(m.accepted) || topic+" "+data != m.accepted[messages] {
				m.Fatalf("message %d in the log is %.100s", messages, line)
			}
			if noticed[topic]--; noticed[topic] < 0 {
				m.Fatalf("message %d is in the log before its notice", messages)
			}
			messages++
			continue
		}
		if strings.HasPrefix(line, outageLine) {
			continue
		}
		if notices == len(m.notices) || line != m.notices[notices] {
			m.Fatalf("notice %d in the log is %s", notices, line)
		}
		notices++
		count := 1
		fmt.Sscanf(line, "%d new messages", &count)
		if _, topic, ok := strings.Cut(line, " dispatched on topic "); ok {
			noticed[topic] += count
		}
	}
	return messages, notices
}

// FuzzConnection sends any bytes, in pieces, and ends the connection in one of three ways. The
// broker must acknowledge and log the messages that the decoder accepts, and nothing else. Then
// it must serve the next connection.
func FuzzConnection(f *testing.F) {
	addConnections(f)
	const limit = 4000
	log := &bustest.Record{}
	config := DefaultConfig()
	config.ProducerPort, config.Interval, config.MaxPayload, config.Log = "0", 0, limit, log
	broker, err := New(config)
	if err != nil {
		f.Fatal(err)
	}
	go broker.ProducerListen()
	f.Cleanup(broker.Close)
	f.Fuzz(func(t *testing.T, payload []byte, piece, end uint8) {
		client := bustest.NewClient(t, broker.Addr().String(), log)
		want := expectedReply(config, payload)
		log.Reset()
		connection := client.Dial()
		sendPieces(connection, payload, 16*int(piece)+1)
		switch end % 3 {
		case 0:
			connection.CloseWrite()
			if reply := connection.Reply(); *reply != want {
				t.Fatalf("the reply is %+v, want %+v", *reply, want)
			}
		case 1: // hang up without reading
			connection.Close()
		case 2: // reset the connection: a payload without an end is never accepted
			want.Accepted = 0
			connection.SetLinger(0)
			connection.Close()
		}
		client.Accept("\x82\xa5Topic\xa1t\xa4Data\xc0", 1)
		if got := strings.Count(log.String(), "Received new"); got != want.Accepted+1 {
			t.Fatalf("%d messages are in the log, want %d and one more", got, want.Accepted)
		}
		bustest.Lines(t, log.String())
	})
}

// addConnections adds the seeds of FuzzConnection.
func addConnections(f *testing.F) {
	for payload := range malformed {
		f.Add([]byte(payload), uint8(len(payload)), uint8(0))
	}
	f.Add([]byte(bustest.Payload("t", bustest.Numbers(0, 19)...)), uint8(7), uint8(0))
	f.Add([]byte(bustest.Payload("t", bustest.Numbers(0, 19)...)), uint8(200), uint8(1))
	f.Add([]byte(bustest.Payload("t", "text")), uint8(1), uint8(2))
	f.Add(bytes.Repeat([]byte("\x90"), 5000), uint8(255), uint8(0))
	f.Add([]byte("\xdd0000"), uint8('Q'), uint8(0))
	f.Add(bytes.Repeat([]byte("G"), 5000), uint8(255), uint8(0))
}

// expectedReply returns the reply of a broker with config to payload.
func expectedReply(config *BrokerConfig, payload []byte) apiv1.Reply {
	payloads := decoder.NewMsgpackDecoder(config.MaxQueued / messageOverhead)
	if len(payload) > config.MaxPayload && payloads.CheckFirst(payload[0]) == nil {
		return apiv1.Reply{Error: fmt.Sprintf(
			"the payload is too large: more than %d bytes (-max-payload)", config.MaxPayload)}
	}
	messages, err := payloads.Decode(bytes.Clone(payload))
	if err != nil {
		return apiv1.Reply{Error: err.Error()}
	}
	return apiv1.Reply{Accepted: len(messages)}
}

// sendPieces sends payload in pieces of size bytes, until the broker has refused it.
func sendPieces(connection io.Writer, payload []byte, size int) {
	for piece := range slices.Chunk(payload, size) {
		if _, err := connection.Write(piece); err != nil {
			return
		}
	}
}
