package broker

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
	"mbus/internal/shared/logline"
)

const (
	// The memory of a queued message and of a known topic without names and data, in bytes:
	// their structures, and their share of the queues and of the payload's framing, rounded up.
	messageOverhead = 128
	topicOverhead   = 512

	// While more than maxEmptyTopics topics are known, a drain forgets empty ones.
	maxEmptyTopics = 10_000

	// maxNotices bounds the notices that wait for the ticker goroutine, in bytes. The log
	// buffers as many again.
	maxNotices = 512 << 10
)

// queues is what the loop and the ticker goroutine share.
type queues struct {
	mutex    sync.Mutex        // guards all fields up to logFailing but limit
	topics   map[string]*Topic // by name
	arrivals []arrival         // the order of all messages in the queues
	accepted int               // how many messages were ever queued
	written  int               // how many of them are written
	bytes    int               // what unwritten messages and known topics use of limit
	limit    int               // MaxQueued

	replies []*waitingReply // in the order of acceptance

	notices []byte        // lines of the log that are not messages'
	dropped int           // how many notices found no room
	stamps  logline.Stamp // of the notices

	// How many payloads were accepted and refused. An empty payload counts nowhere, and a
	// payload that was queued counts even if its reply could not be sent.
	payloadsAccepted, payloadsRefused int

	logFailing atomic.Int32 // 1 while the log fails, otherwise 0

	noticed chan struct{} // to the ticker goroutine: there are notices
	crowded chan struct{} // to the ticker goroutine: the notices fill a write
	wanted  chan struct{} // to the ticker goroutine: the loop or a reply waits for a drain
	settled chan struct{} // to the loop: messages were written
	places  chan struct{} // has an element for each reply that waits, and one for the loop
	ended   chan struct{} // closed: the ticker goroutine has ended
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
		noticed: make(chan struct{}, 1),
		crowded: make(chan struct{}, 1),
		wanted:  make(chan struct{}, 1),
		settled: make(chan struct{}, 1),
		places:  make(chan struct{}, places),
		ended:   make(chan struct{}),
	}
}

// messageBytes returns how many bytes of MaxQueued message uses until it is written.
func messageBytes(message *apiv1.Message) int {
	return messageOverhead + len(message.Topic) + len(message.Data)
}

// topicBytes returns how many bytes of MaxQueued a topic uses until a drain forgets it.
func topicBytes(name string) int {
	return topicOverhead + len(name)
}

// share is how many messages of a payload are for one topic.
type share struct {
	name  string
	count int
}

// sharesOf returns the topics of a payload in the order of their first messages, and how many
// bytes of MaxQueued the payload uses if all its topics are new.
func sharesOf(messages []*apiv1.Message) (shares []share, need int) {
	places := make(map[string]int)
	last := -1 // most messages have the topic of the one before
	for _, message := range messages {
		need += messageBytes(message)
		if last < 0 || shares[last].name != message.Topic {
			place, known := places[message.Topic]
			if !known {
				place = len(shares)
				places[message.Topic] = place
				shares = append(shares, share{name: message.Topic})
				need += topicBytes(message.Topic)
			}
			last = place
		}
		shares[last].count++
	}
	return shares, need
}

// enqueue queues all messages of a payload and returns nil, or queues none and returns the
// reason. If there is no room, it has the queues drained and waits for room until the deadline.
// If wait is not nil, enqueue calls it with the mutex held once the messages are queued, and has
// the queues drained.
func (broker *Broker) enqueue(
	messages []*apiv1.Message, deadline time.Time, wait func(),
) error {
	if len(messages) == 0 {
		return nil
	}
	shares, need := sharesOf(messages)
	if err := broker.awaitRoom(need, deadline); err != nil {
		return err
	}
	q := &broker.queues
	q.mutex.Lock()
	defer q.mutex.Unlock()
	// The notices of one payload are all kept or all dropped. They use less memory than its
	// messages.
	keep := q.roomForNotice()
	for _, share := range shares {
		q.topic(share.name, keep).Queue.Reserve(share.count)
	}
	for _, message := range messages {
		broker.HandleNewMessage(message)
	}
	for _, share := range shares {
		text := "new message dispatched on topic "
		if share.count > 1 {
			text = strconv.Itoa(share.count) + " new messages dispatched on topic "
		}
		q.notice(keep, text, share.name)
	}
	q.payloadsAccepted++
	if len(q.notices) >= gatherSize {
		wakeUp(q.crowded)
	}
	if wait == nil {
		wakeUp(q.noticed)
		return nil
	}
	wait()
	wakeUp(q.wanted)
	return nil
}

// topic returns the topic with that name. If there is none, it makes it, with a notice if keep
// is true.
func (q *queues) topic(name string, keep bool) *Topic {
	topic := q.topics[name]
	if topic == nil {
		topic = NewTopic(name)
		q.topics[name] = topic
		q.bytes += topicBytes(name)
		q.notice(keep, "creating topic ", name)
	}
	return topic
}

// arrive counts message as the last to arrive, and returns its topic.
func (q *queues) arrive(message *apiv1.Message) *Topic {
	last := len(q.arrivals) - 1
	if last < 0 || q.arrivals[last].topic.Name != message.Topic {
		topic := q.topic(message.Topic, q.roomForNotice())
		q.arrivals = append(q.arrivals, arrival{topic: topic})
		last++
	}
	q.arrivals[last].count++
	q.accepted++
	q.bytes += messageBytes(message)
	return q.arrivals[last].topic
}

// dequeue removes and returns the message that arrived first. There must be one.
func (q *queues) dequeue() *apiv1.Message {
	first := &q.arrivals[0]
	message := first.topic.Queue.Dequeue()
	if first.count--; first.count == 0 {
		first.topic = nil // so that its memory can be freed
		q.arrivals = q.arrivals[1:]
	}
	return message
}

// awaitRoom has the ticker goroutine drain until need bytes fit into the queues, without empty
// topics if need be. If they don't fit at the deadline, or if the log is gone, it returns the
// reason of the refusal.
func (q *queues) awaitRoom(need int, deadline time.Time) error {
	if need > q.limit {
		return fmt.Errorf(apiv1.TooLarge+"more than an empty queue takes (-max-queued %d)", q.limit)
	}
	for expired := false; ; {
		switch fits := q.hasRoom(need); {
		case isClosed(q.ended):
			return errors.New(apiv1.LogGone)
		case fits:
			return nil
		case expired:
			return errors.New(apiv1.QueueFull)
		}
		wakeUp(q.wanted)
		select {
		case <-q.settled:
		case <-q.ended:
		case <-time.After(time.Until(deadline)):
			expired = true
		}
	}
}

// hasRoom reports whether need bytes fit into the queues. If not, it forgets empty topics first.
func (q *queues) hasRoom(need int) bool {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if q.bytes+need > q.limit {
		q.forgetTopics(0)
	}
	return q.bytes+need <= q.limit
}

// refuse counts a payload that is refused, and hands line to the ticker goroutine.
func (q *queues) refuse(line string) {
	q.mutex.Lock()
	q.payloadsRefused++
	q.mutex.Unlock()
	q.notify(line)
}

// notify hands line, which must be printable, to the ticker goroutine for the log. Any goroutine
// may call it.
func (q *queues) notify(line string) {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.notice(q.roomForNotice(), line, "")
	wakeUp(q.noticed)
}

// roomForNotice reports whether the next notices are kept.
func (q *queues) roomForNotice() bool {
	return len(q.notices) < maxNotices
}

// notice adds a line of text and a topic's name, or only counts it.
func (q *queues) notice(keep bool, text, topic string) {
	if !keep {
		q.dropped++
		return
	}
	q.notices = append(q.stamps.Append(q.notices, time.Now()), text...)
	q.notices = append(escape.AppendName(q.notices, []byte(topic)), '\n')
}

// take takes all notices and the first messages, at most due and about as many as fit into size
// bytes of lines. It appends the messages to buffer. It takes both under one lock, so if the
// notices are written first, no message is written before its notice.
func (q *queues) take(
	buffer []*apiv1.Message, due, size int,
) (notices []byte, messages []*apiv1.Message) {
	const aroundData = 64 // bytes of a line without its data, roughly
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if q.dropped > 0 {
		q.notice(true, fmt.Sprint(
			"Broker: log lines left out while the log did not keep up: ", q.dropped), "")
	}
	notices, messages = q.notices, buffer
	q.notices, q.dropped = nil, 0
	for ; due > 0 && size > 0; due-- {
		message := q.dequeue()
		messages = append(messages, message)
		size -= aroundData + len(message.Data)
	}
	return notices, messages
}

// counts returns how many messages were ever queued, and how many of them are not written.
func (q *queues) counts() (accepted, unwritten int) {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	return q.accepted, q.accepted - q.written
}

// forgetMany forgets empty topics while more than maxEmptyTopics are known.
func (q *queues) forgetMany() {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.forgetTopics(maxEmptyTopics)
}

// settle stops counting messages that are written, and use so many bytes, as queued. It returns
// the replies that need not wait any more.
func (q *queues) settle(messages, bytes int) []*waitingReply {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.written += messages
	q.bytes -= bytes
	wakeUp(q.settled)
	return q.takeWritten()
}

// forgetTopics forgets empty topics while more than kept are known.
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

// wakeUp makes the goroutine that receives from channel continue, now or at its next receive.
// It never blocks. channel must have a buffer of one element.
func wakeUp(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// isClosed reports whether channel is closed. Nothing must be sent on it.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
