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

// bytes returns the memory that the notice takes.
func (notice *notice) bytes() int {
	const fields = 64
	return fields + len(notice.line)
}

// notices are on their way from the loop to the ticker goroutine.
type notices struct {
	waiting     []notice
	bytes       int  // memory of those that wait or are being written
	full        bool // count what is added, don't keep it
	dropped     int  // how many were not kept
	wakePending bool // the ticker goroutine was woken for notices, and has not taken them
}

// add puts a notice at the end, or counts it.
func (notices *notices) add(notice notice) {
	if notices.full {
		notices.dropped++
		return
	}
	notices.waiting = append(notices.waiting, notice)
	notices.bytes += notice.bytes()
}

// decide decides whether what is added next is kept. It is not called between the
// notices of one payload, so these are kept or dropped as a whole. A payload's
// notices never take more than its messages.
func (notices *notices) decide() {
	notices.full = notices.dropped > 0 || notices.bytes >= maxNotices
}

// take takes all notices, and adds one about those that were dropped. It returns
// them and the memory that they take until release.
func (notices *notices) take() ([]notice, int) {
	if notices.dropped > 0 {
		notices.waiting = append(notices.waiting, notice{when: time.Now(), line: fmt.Sprintf(
			"Broker: log lines left out while the log did not keep up: %d", notices.dropped)})
		notices.dropped = 0
	}
	taken := notices.waiting
	notices.waiting, notices.wakePending = nil, false
	return taken, notices.bytes
}

// release takes the memory of notices that are written off the bound.
func (notices *notices) release(bytes int) {
	notices.bytes -= bytes
	notices.decide()
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
// the ticker goroutine for them.
func (broker *Broker) wakeForNoticesLocked() {
	notices := &broker.state.notices
	notices.decide()
	if !notices.wakePending {
		notices.wakePending = true
		wakeUp(broker.wake)
	}
}
