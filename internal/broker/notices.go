package broker

import (
	"fmt"
	"strconv"
	"time"

	"mbus/internal/shared/escape"
)

// maxNotices bounds the notices that are not written yet, in bytes.
const maxNotices = 1 << 20

// notice is a line of the log that is not a message's. It has either a line or a topic.
type notice struct {
	when  time.Time
	line  string // printable
	topic *Topic
	count int // how many messages were queued on topic; 0: topic was made
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

// notices are the notices that the loop hands to the ticker goroutine.
type notices struct {
	waiting     []notice
	bytes       int  // memory of the waiting notices
	writing     int  // memory of the notices taken last, until all of them are written
	full        bool // the next notices are dropped
	dropped     int  // how many were dropped
	wakePending bool // the ticker goroutine was woken, and has not taken the notices
}

// add appends notice, or drops and counts it.
func (pending *notices) add(notice notice) {
	const fields = 64 // bytes of a notice besides its line
	if pending.full {
		pending.dropped++
		return
	}
	pending.waiting = append(pending.waiting, notice)
	pending.bytes += fields + len(notice.line)
}

// take removes and returns all notices. If some were dropped, it appends a notice with their
// number.
func (pending *notices) take() []notice {
	taken := pending.waiting
	if pending.dropped > 0 {
		taken = append(taken, notice{when: time.Now(), line: fmt.Sprintf(
			"Broker: log lines left out while the log did not keep up: %d", pending.dropped)})
	}
	*pending = notices{writing: pending.bytes}
	return taken
}

// announceLocked ends the queueing of a payload. It adds a notice for each topic of the
// payload's messages.
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

// notify hands line, which must be printable, to the ticker goroutine for the log. Any goroutine
// may call it.
func (broker *Broker) notify(line string) {
	broker.state.Lock()
	broker.state.notices.add(notice{when: time.Now(), line: line})
	broker.wakeForNoticesLocked()
	broker.state.Unlock()
}

// wakeForNoticesLocked wakes the ticker goroutine after notices that belong together were
// added. Nothing else decides whether the next notices are dropped, so the notices of one
// payload are kept or dropped together. They use less memory than the payload's messages.
func (broker *Broker) wakeForNoticesLocked() {
	notices := &broker.state.notices
	notices.full = notices.bytes+notices.writing >= maxNotices
	if !notices.wakePending {
		notices.wakePending = true
		wakeUp(broker.wake)
	}
}
