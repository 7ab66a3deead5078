package broker

import (
	"cmp"
	"time"

	"mbus/internal/apiv1"
)

const (
	// maxEmptyTopics is how many topics may be known before the drain forgets
	// those that are empty.
	maxEmptyTopics = 10_000

	// retryInterval is the time between two drains at interval 0, where only
	// a log that failed needs them.
	retryInterval = time.Second

	// noticeTime is how long notices wait for others: a wake-up for each
	// would cost a busy broker more than queueing does.
	noticeTime = 10 * time.Millisecond

	// lastRetry is the time between two drains of a broker that stops.
	lastRetry = 100 * time.Millisecond
)

// arrival is a run of messages that one topic received. Together, the arrivals
// have the order of all messages in the queues.
type arrival struct {
	topic *Topic
	count int
}

// taken is what the ticker goroutine has taken from the loop and not written yet.
type taken struct {
	notices     []notice
	noticeBytes int // memory of all notices that were taken together

	messages  []*apiv1.Message
	formatted int // how many of messages the log writer has
	written   int // how many of messages are written and off the account
}

// tickLoop is the ticker goroutine: it writes the log until served is closed and
// everything is written, or until the log is gone. It drains at each tick, or when
// the loop waits for that, and writes the notices as they come.
func (broker *Broker) tickLoop(served <-chan struct{}) error {
	ticker := time.NewTicker(cmp.Or(broker.config.Interval, retryInterval))
	defer ticker.Stop()
	var noticesDue <-chan time.Time
	for {
		var err error
		select {
		case <-ticker.C:
			err = broker.Drain()
		case <-broker.wake:
			if broker.drainWanted() {
				err = broker.Drain()
			} else if noticesDue == nil {
				noticesDue = time.After(noticeTime)
			}
		case <-noticesDue:
			noticesDue = nil
			err = broker.write(0)
		case <-served:
			return broker.lastDrain()
		}
		if broker.log.isPermanent(err) {
			return err
		}
	}
}

// drainWanted returns whether the loop waits for a drain.
func (broker *Broker) drainWanted() bool {
	broker.state.Lock()
	defer broker.state.Unlock()
	return broker.state.roomWanted || broker.config.Interval == 0
}

// lastDrain drains until everything is written or the log is gone.
func (broker *Broker) lastDrain() error {
	for {
		if err := broker.Drain(); err == nil || broker.log.isPermanent(err) {
			return err
		}
		time.Sleep(lastRetry)
	}
}

// Drain writes all notices, and a line for every message that is queued when it
// begins, in the order of arrival. A message whose line can't be written stays
// queued, in its place, and Drain returns the error. The ticker goroutine calls
// it; nobody else may while ProducerListen runs.
func (broker *Broker) Drain() error {
	broker.state.Lock()
	due := broker.state.queuedMessages - (len(broker.taken.messages) - broker.taken.written)
	roomWanted := broker.state.roomWanted
	broker.state.roomWanted = false
	broker.state.Unlock()

	err := broker.write(due)

	broker.state.Lock()
	forgotten := broker.forgetTopicsLocked(roomWanted)
	broker.state.Unlock()
	if forgotten {
		wakeUp(broker.written)
	}
	return err
}

// write writes what an error left over, all notices, and the first due messages of
// the queues.
func (broker *Broker) write(due int) error {
	err := broker.writeTaken()
	for more := true; more && err == nil; more = due > 0 {
		due -= broker.take(due)
		err = broker.writeTaken()
	}
	if err == nil {
		err = broker.log.reportOutage()
	}
	return err
}

// take takes all notices, and about as many messages as one write holds, but at
// most due. It returns how many messages it took. Since it takes both under one
// lock, and notices are written first, no message is written before its notices.
func (broker *Broker) take(due int) int {
	const aroundData = 64 // bytes of a line, roughly
	state, taken := &broker.state, &broker.taken
	state.Lock()
	defer state.Unlock()
	taken.notices, taken.noticeBytes = state.notices.take()
	for size := 0; len(taken.messages) < due && size < gatherSize; {
		arrival := &state.arrivals[0]
		message := arrival.topic.Queue.Dequeue()
		taken.messages = append(taken.messages, message)
		size += aroundData + len(message.Data)
		if arrival.count--; arrival.count == 0 {
			arrival.topic = nil // keep no topic alive
			state.arrivals = state.arrivals[1:]
		}
	}
	return len(taken.messages)
}

// writeTaken writes what was taken, or goes on where writing it failed, and takes
// what was written off the account.
func (broker *Broker) writeTaken() error {
	taken, log := &broker.taken, &broker.log
	now := time.Now() // for all messages that were taken: one write or a little more
	err := log.finish()
	for len(taken.notices) > 0 && err == nil {
		err = log.notice(&taken.notices[0])
		taken.notices = taken.notices[1:]
	}
	for taken.formatted < len(taken.messages) && err == nil {
		taken.formatted++
		err = log.message(now, taken.messages[taken.formatted-1])
	}
	if err == nil {
		err = log.flush()
	}
	broker.account(log.takeWritten())
	return err
}

// account takes messages that were written, count more of those that were taken, off
// the account, and the notices once all of them are written.
func (broker *Broker) account(count int) {
	state, taken := &broker.state, &broker.taken
	bytes := 0
	for _, message := range taken.messages[taken.written : taken.written+count] {
		bytes += messageBytes(message)
	}
	clear(taken.messages[taken.written : taken.written+count]) // keep no message alive
	if taken.written += count; taken.written == len(taken.messages) {
		taken.messages, taken.formatted, taken.written = taken.messages[:0], 0, 0
	}
	state.Lock()
	state.queuedMessages -= count
	state.accountedBytes -= bytes
	if len(taken.notices) == 0 {
		state.notices.release(taken.noticeBytes)
		taken.noticeBytes = 0
	}
	state.Unlock()
	if count > 0 {
		wakeUp(broker.written)
	}
}

// forgetTopicsLocked forgets empty topics: all of them, or those beyond
// maxEmptyTopics. It returns whether there were any.
func (broker *Broker) forgetTopicsLocked(all bool) bool {
	kept := maxEmptyTopics
	if all {
		kept = 0
	}
	before := len(broker.topics)
	for name, topic := range broker.topics {
		if len(broker.topics) <= kept {
			break
		}
		if topic.Queue.Len() == 0 {
			delete(broker.topics, name)
			broker.state.accountedBytes -= topicBytes(name)
		}
	}
	return len(broker.topics) < before
}
