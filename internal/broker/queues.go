package broker

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/broker/listener"
	"mbus/internal/shared/escape"
	"mbus/internal/shared/logline"
)

const (
	// gatherSize is about how many bytes of lines are collected before they are written.
	gatherSize = 64 << 10

	// While more than maxEmptyTopics topics are known, a drain forgets empty ones.
	maxEmptyTopics = 10_000

	// maxNotices bounds the notices that wait for the ticker goroutine, in bytes. The log
	// buffers as many again.
	maxNotices = 512 << 10
)

// queues is what the loop and the ticker goroutine share.
type queues struct {
	limit  int // MaxQueued
	places int // how many replies may wait

	mutex    sync.Mutex        // guards all fields up to ended
	topics   map[string]*Topic // by name
	arrivals []arrival         // the order of all messages in the queues
	bytes    int               // what unwritten messages and known topics use of limit

	// Messages are numbered in the order of their arrival, from 1. These are the numbers of the
	// last message that arrived, that must be written without waiting for the next tick, that was
	// taken out of the queues, and that was written. Each is at most the one before.
	accepted, due, taken, written int

	replies []*waitingReply // in the order of acceptance

	notices []byte        // lines of the log that are not messages'
	crowded bool          // further notices are only counted
	dropped int           // how many notices were only counted
	stamps  logline.Stamp // of the notices

	// How many payloads were accepted and refused. An empty payload counts nowhere, and a
	// payload that was queued counts even if its reply could not be sent.
	payloadsAccepted, payloadsRefused int

	ended bool // the ticker goroutine has ended, so nothing is written any more

	logFailing atomic.Int32 // 1 while the log fails, otherwise 0

	noticed signal // to the ticker goroutine: there are notices
	urgent  signal // to the ticker goroutine: messages are due, or notices fill a write
	freed   signal // to the loop: there may be room or a place, or the broker stops
}

// arrival is a run of messages that were queued on one topic, one after the other.
type arrival struct {
	topic *Topic
	count int
}

// newQueues returns empty queues with room for limit bytes, and places for that many replies.
func newQueues(limit, places int) queues {
	return queues{
		topics:  make(map[string]*Topic),
		limit:   limit,
		places:  places,
		noticed: newSignal(),
		urgent:  newSignal(),
		freed:   newSignal(),
	}
}

// share is how many messages of a payload are for one topic.
type share struct {
	name  string
	count int
}

// sharesOf returns the topics of a payload in the order of their first messages, and how many
// bytes of MaxQueued the payload uses if all its topics are new.
func sharesOf(messages []*apiv1.Message) (shares []share, need int) {
	indexes := make(map[string]int)
	last := -1 // most messages have the topic of the one before
	for _, message := range messages {
		need += messageBytes(message)
		if last < 0 || shares[last].name != message.Topic {
			index, known := indexes[message.Topic]
			if !known {
				index = len(shares)
				indexes[message.Topic] = index
				shares = append(shares, share{name: message.Topic})
				need += topicBytes(message.Topic)
			}
			last = index
		}
		shares[last].count++
	}
	return shares, need
}

// enqueue queues all messages of a payload and returns nil, or queues none and returns the
// reason. If there is no room, it has the queues drained and waits for room until the deadline.
// With a reply, the messages are due at once, and the ticker goroutine sends the reply when they
// are written, or at the deadline a timer closes its connection.
func (b *Broker) enqueue(
	messages []*apiv1.Message, deadline time.Time, reply *waitingReply,
) error {
	if len(messages) == 0 {
		return nil
	}
	shares, need := sharesOf(messages)
	q := &b.queues
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if err := q.awaitRoom(need, deadline); err != nil {
		return err
	}
	for _, share := range shares {
		q.topic(share.name).Queue.Reserve(share.count)
	}
	for _, message := range messages {
		b.HandleNewMessage(message)
	}
	for _, share := range shares {
		text := "new message dispatched on topic "
		if share.count > 1 {
			text = strconv.Itoa(share.count) + " new messages dispatched on topic "
		}
		q.addNotice(text, share.name)
	}
	q.payloadsAccepted++
	if reply != nil {
		reply.last = q.accepted
		reply.timer = time.AfterFunc(time.Until(deadline), func() { q.giveUp(reply) })
		q.replies = append(q.replies, reply)
		q.demand()
	}
	q.announce()
	return nil
}

// awaitRoom waits until need bytes fit into the queues, without empty topics if need be. If they
// don't fit at the deadline, or if the log is gone, it returns the reason of the refusal. The
// caller holds the mutex, which is unlocked during the wait.
func (q *queues) awaitRoom(need int, deadline time.Time) error {
	if need > q.limit {
		return fmt.Errorf(apiv1.TooLarge+"more than an empty queue takes (-max-queued %d)", q.limit)
	}
	for !q.ended {
		if q.bytes+need > q.limit {
			q.forgetTopics(0)
		}
		if q.bytes+need <= q.limit {
			return nil
		}
		q.demand()
		if time.Until(deadline) <= 0 {
			return errors.New(apiv1.QueueFull)
		}
		q.wait(time.Until(deadline))
	}
	return errors.New(apiv1.LogGone)
}

// awaitPlace returns true if another reply may wait. Otherwise it waits until it may be so, or the
// broker stops, or the time is over, and returns false.
func (q *queues) awaitPlace(limit time.Duration) bool {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if len(q.replies) < q.places {
		return true
	}
	q.wait(limit)
	return false
}

// wait waits until something was freed, or the time is over. The caller, which is the loop, holds
// the mutex, which is unlocked during the wait.
func (q *queues) wait(limit time.Duration) {
	q.mutex.Unlock()
	defer q.mutex.Lock()
	select {
	case <-q.freed:
	case <-time.After(limit):
	}
}

// demand makes all messages due. The caller holds the mutex.
func (q *queues) demand() {
	q.due = q.accepted
	q.urgent.send()
}

// topic returns the topic with that name, and makes it if there is none.
func (q *queues) topic(name string) *Topic {
	topic := q.topics[name]
	if topic == nil {
		topic = NewTopic(name)
		q.topics[name] = topic
		q.bytes += topicBytes(name)
		q.addNotice("creating topic ", name)
	}
	return topic
}

// arrive counts message as the last to arrive, and returns its topic.
func (q *queues) arrive(message *apiv1.Message) *Topic {
	last := len(q.arrivals) - 1
	if last < 0 || q.arrivals[last].topic.Name != message.Topic {
		q.arrivals = append(q.arrivals, arrival{topic: q.topic(message.Topic)})
		last++
	}
	q.arrivals[last].count++
	q.accepted++
	q.bytes += messageBytes(message)
	return q.arrivals[last].topic
}

// notify hands line, which must be printable, to the ticker goroutine for the log. Any goroutine
// may call it.
func (q *queues) notify(line string) {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.addNotice(line, "")
	q.announce()
}

// addNotice adds a line of text and a topic's name. While the notices are crowded, it only counts
// the line.
func (q *queues) addNotice(text, topic string) {
	if q.crowded {
		q.dropped++
		return
	}
	q.notices = append(q.stamps.Append(q.notices, time.Now()), text...)
	q.notices = append(escape.AppendName(q.notices, []byte(topic)), '\n')
}

// announce wakes the ticker goroutine after notices were added. Only here the notices become
// crowded, so those of one payload are all kept or all counted. They use less memory than its
// messages.
func (q *queues) announce() {
	q.crowded = len(q.notices) >= maxNotices
	if len(q.notices) >= gatherSize {
		q.urgent.send()
	}
	q.noticed.send()
}

// prepare forgets empty topics while more than maxEmptyTopics are known. It returns the number of
// the last message that is due.
func (q *queues) prepare() int {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.forgetTopics(maxEmptyTopics)
	return q.due
}

// take takes all notices and the first messages, up to number due and about as many as fit into
// gatherSize bytes of lines. It appends the messages to buffer. It takes both under one lock, so if the
// notices are written first, no message is written before its notice. If more is true, messages up
// to number due are left.
func (q *queues) take(
	buffer []*apiv1.Message, due int,
) (notices []byte, messages []*apiv1.Message, more bool) {
	const aroundData = 64 // bytes of a line without its data, roughly
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.crowded = false
	if q.dropped > 0 {
		q.addNotice("Broker: log lines left out while the log did not keep up: ",
			strconv.Itoa(q.dropped))
	}
	notices, messages = q.notices, buffer
	q.notices, q.dropped = nil, 0
	for size := 0; q.taken < due && size < gatherSize; {
		message := q.dequeue()
		messages = append(messages, message)
		size += aroundData + len(message.Data)
	}
	return notices, messages, q.taken < due
}

// dequeue removes and returns the message that arrived first. There must be one.
func (q *queues) dequeue() *apiv1.Message {
	first := &q.arrivals[0]
	message := first.topic.Queue.Dequeue()
	if first.count--; first.count == 0 {
		first.topic = nil // so that its memory can be freed
		q.arrivals = q.arrivals[1:]
	}
	q.taken++
	return message
}

// settle stops counting messages that are written, and use so many bytes, as queued. It removes
// and returns the replies to payloads that are written, in the order of acceptance.
func (q *queues) settle(messages, bytes int) []*waitingReply {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.written += messages
	q.bytes -= bytes
	count := 0
	for count < len(q.replies) && q.replies[count].last <= q.written {
		count++
	}
	replies := q.replies[:count:count]
	q.replies = q.replies[count:]
	q.freed.send()
	return replies
}

// giveUp closes the connection of a reply that still waits, and says so in the log.
func (q *queues) giveUp(waiting *waitingReply) {
	q.mutex.Lock()
	at := slices.Index(q.replies, waiting)
	if at >= 0 {
		q.replies = slices.Delete(q.replies, at, at+1)
	}
	q.mutex.Unlock()
	if at < 0 {
		return // its connection has another owner
	}
	q.notify(fmt.Sprintf("no reply to %s: its messages are queued, but were not written in time",
		listener.PeerName(waiting.connection)))
	waiting.connection.Close()
	q.freed.send()
}

// end records that the ticker goroutine has ended. It makes the timers of all replies that wait
// give up at once.
func (q *queues) end() {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.ended = true
	for _, waiting := range q.replies {
		waiting.timer.Reset(0)
	}
	q.freed.send()
}

// forgetTopics forgets empty topics while more than kept are known. The caller holds the mutex.
func (q *queues) forgetTopics(kept int) {
	for name, topic := range q.topics {
		if len(q.topics) <= kept {
			break
		}
		if topic.Queue.Len() == 0 {
			delete(q.topics, name)
			q.bytes -= topicBytes(name)
		}
	}
}
