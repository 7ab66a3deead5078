package broker

import (
	"fmt"
	"strconv"
	"time"

	"mbus/internal/shared/escape"
)

// maxNotices bounds the notices that wait for the log, in bytes.
const maxNotices = 1 << 20

// notice is one of the loop's own log lines: a line, or, if that is empty, what
// happened to a topic.
type notice struct {
	when  time.Time
	line  string
	topic *Topic
	count int // of messages that were queued; 0: topic was made
}

// append appends the notice's text to buffer.
func (notice *notice) append(buffer []byte) []byte {
	switch {
	case notice.line != "":
		return append(buffer, notice.line...)
	case notice.count == 0:
		buffer = append(buffer, "creating topic "...)
	case notice.count == 1:
		buffer = append(buffer, "new message dispatched on topic "...)
	default:
		buffer = strconv.AppendInt(buffer, int64(notice.count), 10)
		buffer = append(buffer, " new messages dispatched on topic "...)
	}
	return escape.AppendName(buffer, []byte(notice.topic.Name))
}

// notices are on their way from the loop to the ticker goroutine.
type notices struct {
	waiting     []notice
	bytes       int  // memory of those that wait
	full        bool // count what is added, don't keep it
	dropped     int  // how many were not kept
	wakePending bool // the ticker goroutine was woken for notices, and has not taken them
}

// add puts a notice at the end, or counts it.
func (pending *notices) add(notice notice) {
	const fields = 64 // bytes of a notice besides its line
	if pending.full {
		pending.dropped++
		return
	}
	pending.waiting = append(pending.waiting, notice)
	pending.bytes += fields + len(notice.line)
}

// take takes all notices, and adds one about those that were dropped.
func (pending *notices) take() []notice {
	taken := pending.waiting
	if pending.dropped > 0 {
		taken = append(taken, notice{when: time.Now(), line: fmt.Sprintf(
			"Broker: log lines left out while the log did not keep up: %d", pending.dropped)})
	}
	*pending = notices{}
	return taken
}

// announceLocked ends the queueing of a payload: it adds a notice for each topic
// that the payload has messages for.
func (broker *Broker) announceLocked() {
	state, now := &broker.state, time.Now()
	for _, topic := range state.payloadTopics {
		state.notices.add(notice{when: now, topic: topic, count: topic.fromPayload})
		topic.fromPayload = 0
	}
	clear(state.payloadTopics)
	state.payloadTopics = state.payloadTopics[:0]
	broker.wakeForNoticesLocked()
}

// notify hands a line of printable text to the ticker goroutine for the log.
func (broker *Broker) notify(line string) {
	broker.state.Lock()
	broker.state.notices.add(notice{when: time.Now(), line: line})
	broker.wakeForNoticesLocked()
	broker.state.Unlock()
}

// wakeForNoticesLocked ends the adding of notices that belong together, and wakes
// the ticker goroutine for them. It decides whether the next ones are kept, so the
// notices of one payload are kept or dropped as a whole. They never take more memory
// than the payload's messages.
func (broker *Broker) wakeForNoticesLocked() {
	notices := &broker.state.notices
	notices.full = notices.bytes >= maxNotices
	if !notices.wakePending {
		notices.wakePending = true
		wakeUp(broker.wake)
	}
}
