package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
)

// model is the bus as it should be, in plain slices.
type model struct {
	limit    int
	topics   map[string]bool
	accepted []string // every message that was accepted, as "topic data", in order
	costs    []int    // what each of them costs
	notices  []string // every notice about topics, in order
	full     bool     // the last payload found no room, and no drain has begun since
}

// cost returns what counts as queued when only the first written messages have
// been written.
func (model *model) cost(written int) int {
	sum := 0
	for name := range model.topics {
		sum += topicBytes(name)
	}
	for _, cost := range model.costs[written:] {
		sum += cost
	}
	return sum
}

// FuzzBus compares the bus with the model after each of a random sequence of
// payloads and drains, under random limits, with a log that fails now and then.
// Every two bytes of steps are one step: what to do, and how much of it.
func FuzzBus(f *testing.F) {
	f.Add(uint16(2000), []byte{1, 1, 2, 2, 200, 0, 3, 3, 130, 50, 1, 9, 200, 0})
	f.Add(uint16(900), []byte{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 200, 0, 1, 1})
	f.Add(uint16(700), []byte{40, 0, 41, 0, 42, 0, 43, 0, 200, 0, 44, 0, 45, 0, 46, 0, 150, 1, 151, 2, 152, 200, 200, 0})
	f.Add(uint16(900), []byte(" 0 0\x000"))
	f.Add(uint16(2010), []byte("0000\x000"))
	f.Add(uint16(65000), bytes.Repeat([]byte{5, 255, 17, 30, 131, 255}, 60))
	f.Fuzz(func(t *testing.T, limit uint16, steps []byte) {
		if limit == 0 || len(steps) > 400 {
			return
		}
		var log *faulty
		bus := listen(t, func(config *BrokerConfig) {
			log = faultyLog(config, full)
			config.MaxQueued = int(limit)
		})
		defer bus.Close()
		model := &model{limit: int(limit), topics: make(map[string]bool)}
		for ; len(steps) >= 2; steps = steps[2:] {
			if what, much := steps[0], int(steps[1]); what < 128 {
				model.payload(t, bus, what, much)
			} else if what < 192 {
				log.budget.Store(int64(much) * int64(what-127))
				model.drain(t, bus, log)
			} else {
				log.budget.Store(endless)
				model.drain(t, bus, log)
			}
		}
		log.budget.Store(endless)
		model.drain(t, bus, log)
		if bus.state.queuedMessages != 0 {
			t.Errorf("%d messages are still queued", bus.state.queuedMessages)
		}
	})
}

// payload queues one message for each bit of what, on topics that depend on it,
// with much bytes of data each, and compares what came of it.
func (model *model) payload(t *testing.T, bus *bus, what byte, much int) {
	var messages []*apiv1.Message
	fresh := make(map[string]int)
	need := 0
	var order []string
	for bit := range 7 {
		if what&(1<<bit) == 0 {
			continue
		}
		topic := fmt.Sprint("t", bit%3)
		if bit == 6 {
			topic = fmt.Sprint("unique ", len(model.accepted))
		}
		text := fmt.Sprintf("%d.%d:", len(model.accepted), bit) + strings.Repeat("x", much)
		message := &apiv1.Message{Topic: topic, Data: []byte(text)}
		messages = append(messages, message)
		need += messageBytes(message)
		if fresh[topic]++; fresh[topic] == 1 {
			need += topicBytes(topic)
			order = append(order, topic)
		}
	}
	before := bus.state.accountedBytes
	err := bus.enqueue(messages, time.Now())
	var want string
	switch {
	case need > model.limit:
		want = fmt.Sprintf("the payload is too large: more than an empty queue takes (-max-queued %d)", model.limit)
	case before+need > model.limit:
		want = "queue is full"
		model.full = true
	}
	if got := fmt.Sprint(err); got != want && !(err == nil && want == "") {
		t.Fatalf("%d messages: %v, want %q", len(messages), err, want)
	}
	if err != nil {
		if bus.state.accountedBytes != before {
			t.Fatalf("a refused payload changed what counts from %d to %d", before, bus.state.accountedBytes)
		}
		return
	}
	model.full = model.full && len(messages) == 0
	for _, message := range messages {
		model.accepted = append(model.accepted, message.Topic+" "+string(message.Data))
		model.costs = append(model.costs, messageBytes(message))
		if !model.topics[message.Topic] {
			model.topics[message.Topic] = true
			model.notices = append(model.notices, "creating topic "+message.Topic)
		}
	}
	for _, topic := range order {
		if count := fresh[topic]; count == 1 {
			model.notices = append(model.notices, "new message dispatched on topic "+topic)
		} else {
			model.notices = append(model.notices, fmt.Sprintf("%d new messages dispatched on topic %s", count, topic))
		}
	}
	if bus.state.accountedBytes > model.limit {
		t.Fatalf("%d bytes are queued, over the limit %d", bus.state.accountedBytes, model.limit)
	}
}

// drain drains and compares the log and what still counts.
func (model *model) drain(t *testing.T, bus *bus, log *faulty) {
	err := bus.Drain()
	text := log.String()
	text = text[:strings.LastIndexByte(text, '\n')+1] // the rest is torn, for now
	var written int
	var notices []string
	announced := make(map[string]int)
	for _, line := range lines(t, text) {
		if rest, ok := strings.CutPrefix(line, "Received new message from topic '"); ok {
			topic, data, _ := strings.Cut(strings.TrimSuffix(rest, "'"), "': '")
			if written == len(model.accepted) || topic+" "+data != model.accepted[written] {
				t.Fatalf("message %d in the log is %.100s", written, line)
			}
			if announced[topic]--; announced[topic] < 0 {
				t.Fatalf("message %d is in the log before the line that it was queued", written)
			}
			written++
			continue
		}
		if strings.HasPrefix(line, outageLine) {
			continue
		}
		notices = append(notices, line)
		count := 1
		fmt.Sscanf(line, "%d new messages", &count)
		if _, topic, ok := strings.Cut(line, " dispatched on topic "); ok {
			announced[topic] += count
		}
	}
	for i, line := range notices {
		if i == len(model.notices) || line != model.notices[i] {
			t.Fatalf("notice %d in the log is %s", i, line)
		}
	}
	if bus.state.queuedMessages != len(model.accepted)-written {
		t.Fatalf("%d messages count as queued, and %d of %d were written", bus.state.queuedMessages, written, len(model.accepted))
	}
	if err != nil {
		if !errors.Is(err, syscall.ENOSPC) || log.budget.Load() != 0 {
			t.Fatalf("Drain returns %v with %d bytes to go", err, log.budget.Load())
		}
		for name := range model.topics { // some may be forgotten
			if bus.topics[name] == nil {
				delete(model.topics, name)
			}
		}
		if want := model.cost(written); bus.state.accountedBytes != want {
			t.Fatalf("%d bytes count as queued, want %d", bus.state.accountedBytes, want)
		}
	} else {
		if written != len(model.accepted) || len(notices) != len(model.notices) {
			t.Fatalf("%d of %d messages and %d of %d notices were written", written, len(model.accepted), len(notices), len(model.notices))
		}
		if model.full {
			clear(model.topics)
		}
		if len(bus.topics) != len(model.topics) || bus.state.accountedBytes != model.cost(written) {
			t.Fatalf("%d topics, %d bytes are left, want %d, %d", len(bus.topics), bus.state.accountedBytes, len(model.topics), model.cost(written))
		}
	}
	model.full = model.full && err != nil && bus.state.roomWanted
}

// FuzzConnection sends any bytes, in pieces, and ends in one of three ways. What
// the decoder accepts must be acknowledged and logged, and nothing else; and the
// broker must serve the next.
func FuzzConnection(f *testing.F) {
	for payload := range malformed {
		f.Add([]byte(payload), uint8(len(payload)), uint8(0))
	}
	f.Add([]byte(payload("t", numbered(20)...)), uint8(7), uint8(0))
	f.Add([]byte(payload("t", numbered(20)...)), uint8(200), uint8(1))
	f.Add([]byte(payload("t", "text")), uint8(1), uint8(2))
	f.Add(bytes.Repeat([]byte("\x90"), 5000), uint8(255), uint8(0))
	f.Add([]byte("\xdd0000"), uint8('Q'), uint8(0))
	const limit = 4000
	log := &record{}
	config := DefaultConfig()
	config.ProducerPort, config.Interval, config.MaxPayload, config.Log = "0", 0, limit, log
	broker, err := New(config)
	if err != nil {
		f.Fatal(err)
	}
	go broker.ProducerListen()
	f.Cleanup(broker.Close)
	f.Fuzz(func(t *testing.T, payload []byte, piece, end uint8) {
		bus := &bus{Broker: broker, t: t, record: log}
		messages, wrong := decoder.NewMsgpackDecoder(config.MaxQueued / messageOverhead).Decode(bytes.Clone(payload))
		if len(payload) > limit {
			messages, wrong = nil, fmt.Errorf("the payload is too large: more than %d bytes (-max-payload)", limit)
		}
		log.reset()
		connection := bus.dial()
		for rest := payload; len(rest) > 0; {
			size := min(len(rest), 16*int(piece)+1)
			if _, err := connection.Write(rest[:size]); err != nil {
				break // it was refused already
			}
			rest = rest[size:]
		}
		switch end % 3 {
		case 0:
			connection.CloseWrite()
			want := apiv1.Reply{Accepted: len(messages)}
			if wrong != nil {
				want = apiv1.Reply{Error: wrong.Error()}
			}
			if reply := bus.reply(connection); *reply != want {
				t.Fatalf("the reply is %+v, want %+v", *reply, want)
			}
		case 1: // hang up without reading
			connection.Close()
		case 2: // hang up without an end, which is never accepted
			messages = nil
			connection.SetLinger(0)
			connection.Close()
		}
		bus.accept("\x82\xa5Topic\xa1t\xa4Data\xc0", 1)
		if got := strings.Count(log.String(), "Received new"); got != len(messages)+1 {
			t.Fatalf("%d messages are in the log, want %d and one more", got, len(messages))
		}
		lines(t, log.String())
	})
}
