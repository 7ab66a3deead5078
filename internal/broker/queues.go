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

	// maxTopics is how many topics may be known before a drain forgets empty ones.
	maxTopics = 10_000

	// maxNotices is about how many bytes of notices may wait for the ticker goroutine. The
	// buffer of the log may have as many more.
	maxNotices = 512 << 10
)

// queues is what the loop and the ticker goroutine share.
type queues struct {
	limit  int // config.MaxQueued
	places int // how many replies may wait

	mutex    sync.Mutex        // guards all fields from here to ended
	topics   map[string]*Topic // the known topics, by name
	empty    int               // how many of topics have an empty queue
	arrivals []arrival         // the order of all messages in the topics' queues
	used     int               // how much of limit unwritten messages and known topics use

	// Messages are numbered from 1, in the order of their arrival. These are numbers of messages.
	// Each is at most the one above it.
	accepted int // the last that was queued
	due      int // the last that is to be written without waiting for the next tick
	taken    int // the last that was taken out of its queue
	written  int // the last that was written

	replies []*waitingReply // in the order of acceptance

	// Notices are the lines of the log that are not messages'. While too many wait, the next ones
	// are dropped: they are only counted.
	notices []byte
	crowded bool          // too many wait
	dropped int           // how many were dropped since the last take
	stamps  logline.Stamp // of the notices

	// How many payloads were accepted and refused. An empty payload is not counted. A payload
	// that was queued counts as accepted even if its reply could not be sent.
	payloadsAccepted, payloadsRefused int

	ended bool // the ticker goroutine has ended, and nothing more is written

	logFailing atomic.Int32 // 1 while the log fails, otherwise 0

	noticed signal // to the ticker goroutine: there are notices
	urgent  signal // to the ticker goroutine: messages are due, or there are many notices
	freed   signal // to the loop: there may be room or a place for a reply, or the broker stops
}

// arrival is a run of messages on one topic that arrived one after the other.
type arrival struct {
	topic *Topic
	count int
}

// newQueues returns empty queues with room for limit bytes.
func newQueues(limit int) queues {
	return queues{
		topics:  make(map[string]*Topic),
		limit:   limit,
		places:  placesForReplies(),
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

// sharesOf returns the topics of a payload, in the order of their first messages, and how many
// bytes the payload needs in empty queues.
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

// enqueue queues all messages of a payload and returns nil, or queues none and returns the reason.
// If there is no room, it makes the ticker goroutine drain, and waits for room until the deadline.
// If reply is not nil, the messages are due at once. The ticker goroutine sends the reply when they
// are written, unless a timer closes its connection at the deadline.
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
		q.makeDue()
	}
	q.wakeForNotices()
	return nil
}

// awaitRoom waits until there is room for need bytes. To make room it forgets empty topics. If
// there is none at the deadline, or if the log is gone, it returns the reason of the refusal. The
// caller holds the mutex, which is unlocked during the wait.
func (q *queues) awaitRoom(need int, deadline time.Time) error {
	if need > q.limit {
		return fmt.Errorf(apiv1.TooLarge+"more than an empty queue takes (-max-queued %d)", q.limit)
	}
	for !q.ended {
		if q.used+need > q.limit {
			q.forgetTopics(0)
		}
		if q.used+need <= q.limit {
			return nil
		}
		q.makeDue()
		if time.Until(deadline) <= 0 {
			return errors.New(apiv1.QueueFull)
		}
		q.wait(time.Until(deadline))
	}
	return errors.New(apiv1.LogGone)
}

// awaitPlace returns true if there is a place for another reply. Otherwise it returns false, after
// it has waited until there may be one, the broker stops, or limit is over.
func (q *queues) awaitPlace(limit time.Duration) bool {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if len(q.replies) < q.places {
		return true
	}
	q.wait(limit)
	return false
}

// wait waits until freed is sent or limit is over. Only the loop calls it. The caller holds the
// mutex, which is unlocked during the wait.
func (q *queues) wait(limit time.Duration) {
	q.mutex.Unlock()
	defer q.mutex.Lock()
	select {
	case <-q.freed:
	case <-time.After(limit):
	}
}

// makeDue makes all messages due, and wakes the ticker goroutine. The caller holds the mutex.
func (q *queues) makeDue() {
	q.due = q.accepted
	q.urgent.send()
}

// topic returns the topic name, and makes it if it is not known. The caller holds the mutex.
func (q *queues) topic(name string) *Topic {
	topic := q.topics[name]
	if topic == nil {
		topic = NewTopic(name)
		q.topics[name] = topic
		q.empty++
		q.used += topicBytes(name)
		q.addNotice("creating topic ", name)
	}
	return topic
}

// addArrival records that message arrives, and returns its topic. The caller holds the mutex.
func (q *queues) addArrival(message *apiv1.Message) *Topic {
	last := len(q.arrivals) - 1
	if last < 0 || q.arrivals[last].topic.Name != message.Topic {
		q.arrivals = append(q.arrivals, arrival{topic: q.topic(message.Topic)})
		last++
	}
	topic := q.arrivals[last].topic
	if topic.Queue.Len() == 0 {
		q.empty--
	}
	q.arrivals[last].count++
	q.accepted++
	q.used += messageBytes(message)
	return topic
}

// notify hands a notice to the ticker goroutine. The line must be printable. Any goroutine may call
// notify.
func (q *queues) notify(line string) {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.addNotice(line, "")
	q.wakeForNotices()
}

// addNotice adds a notice: text, and the name of a topic, which it escapes. While too many notices
// wait, it drops it. The caller holds the mutex.
func (q *queues) addNotice(text, topic string) {
	if q.crowded {
		q.dropped++
		return
	}
	q.notices = append(q.stamps.Append(q.notices, time.Now()), text...)
	q.notices = append(escape.AppendName(q.notices, []byte(topic)), '\n')
}

// wakeForNotices wakes the ticker goroutine after notices were added. It, and not addNotice, finds
// that too many wait. So the notices of one payload are all kept or all dropped. They use less
// memory than its messages. The caller holds the mutex.
func (q *queues) wakeForNotices() {
	q.crowded = len(q.notices) >= maxNotices
	if len(q.notices) >= gatherSize {
		q.urgent.send()
	}
	q.noticed.send()
}

// prepare prepares a drain. It forgets empty topics if too many are known, and returns the number
// of the last message that is due. If all is true, it makes all messages due before.
func (q *queues) prepare(all bool) int {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if all {
		q.due = q.accepted
	}
	q.forgetTopics(maxTopics)
	return q.due
}

// take takes all notices out, and the first messages up to number due, but only about as many as
// fit into gatherSize bytes of lines. It appends the messages to buffer. If more is true, messages
// up to number due are left. The notices of these messages are among those that this or an earlier
// take returns. So if notices are written first, no message is written before its notice.
func (q *queues) take(
	buffer []*apiv1.Message, due int,
) (notices []byte, messages []*apiv1.Message, more bool) {
	const aroundData = 64 // about how many bytes a line has besides the message's data
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

// dequeue takes out and returns the message that arrived first. There must be one. The caller holds
// the mutex.
func (q *queues) dequeue() *apiv1.Message {
	first := &q.arrivals[0]
	message := first.topic.Queue.Dequeue()
	if first.topic.Queue.Len() == 0 {
		q.empty++
	}
	if first.count--; first.count == 0 {
		first.topic = nil // so that its memory can be freed
		q.arrivals = q.arrivals[1:]
	}
	q.taken++
	return message
}

// settle counts so many more messages as written, and the bytes that they used as free. It removes
// and returns the replies to all payloads that are written whole, in the order of acceptance.
func (q *queues) settle(messages, bytes int) []*waitingReply {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.written += messages
	q.used -= bytes
	count := 0
	for count < len(q.replies) && q.replies[count].last <= q.written {
		count++
	}
	replies := q.replies[:count:count]
	q.replies = q.replies[count:]
	q.freed.send()
	return replies
}

// giveUp closes the connection of a reply that still waits, and hands a notice about it to the log.
func (q *queues) giveUp(waiting *waitingReply) {
	q.mutex.Lock()
	at := slices.Index(q.replies, waiting)
	if at >= 0 {
		q.replies = slices.Delete(q.replies, at, at+1)
	}
	q.mutex.Unlock()
	if at < 0 {
		return // another goroutine owns the connection
	}
	q.notify(fmt.Sprintf("no reply to %s: its messages are queued, but were not written in time",
		listener.PeerName(waiting.connection)))
	waiting.connection.Close()
	q.freed.send()
}

// end records that the ticker goroutine has ended. The timers of the replies that still wait fire
// at once.
func (q *queues) end() {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.ended = true
	for _, waiting := range q.replies {
		waiting.timer.Reset(0)
	}
	q.freed.send()
}

// forgetTopics forgets empty topics while more than kept topics are known. The caller holds the
// mutex.
func (q *queues) forgetTopics(kept int) {
	for name, topic := range q.topics {
		if len(q.topics) <= kept || q.empty == 0 {
			break
		}
		if topic.Queue.Len() == 0 {
			delete(q.topics, name)
			q.empty--
			q.used -= topicBytes(name)
		}
	}
}
