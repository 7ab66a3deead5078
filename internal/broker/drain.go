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

	// lookInterval is how often a store looks at the name of its file at least.
	lookInterval = time.Second

	// settleBytes is what messages count that a drain writes before it syncs.
	settleBytes = 8 << 20

	// lastRetry is the time between two drains of a broker that stops.
	lastRetry = 100 * time.Millisecond
)

// arrival is a run of messages that one topic received. Together, the arrivals
// have the order of all messages in the queues.
type arrival struct {
	topic *Topic
	count int
}

// taken is what the ticker goroutine has taken from the loop and not written yet:
// lines, those of the notices first.
type taken struct {
	notices     []notice
	noticeBytes int // memory of all notices that were taken together
	messages    []*apiv1.Message
	formatted   int // how many of the lines the log writer has
	written     int // how many of them are written

	// Messages that are written and still on the account: they may not be on
	// disk yet.
	unsettled struct{ messages, bytes int }
}

// reset replaces what was taken, all of which is written, by notices.
func (taken *taken) reset(notices []notice, bytes int) {
	taken.notices, taken.noticeBytes = notices, bytes
	taken.messages, taken.formatted, taken.written = taken.messages[:0], 0, 0
}

// lines returns how many lines were taken.
func (taken *taken) lines() int {
	return len(taken.notices) + len(taken.messages)
}

// accounted returns how many messages were taken and are still on the account.
func (taken *taken) accounted() int {
	return len(taken.messages) - max(0, taken.written-len(taken.notices)) + taken.unsettled.messages
}

// tickLoop is the ticker goroutine: it writes the log until served is closed and
// everything is written, or until the log is gone. It drains at each tick, or when
// the loop waits for that, and writes the notices as they come.
func (broker *Broker) tickLoop(served <-chan struct{}) error {
	ticker := time.NewTicker(cmp.Or(broker.config.Interval, retryInterval))
	defer ticker.Stop()
	var looks, noticesDue <-chan time.Time
	if broker.store != nil {
		looks = time.Tick(lookInterval)
	}
	for {
		var err error
		select {
		case <-ticker.C:
			broker.nextLook = time.Time{}
			err = broker.Drain()
		case <-looks:
			broker.nextLook = time.Time{}
			err = broker.write(0)
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
		broker.nextLook = time.Time{}
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
	due := broker.state.queuedMessages - broker.taken.accounted()
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
		if !broker.config.Sync || broker.taken.unsettled.bytes >= settleBytes {
			err = cmp.Or(broker.settle(), err)
		}
	}
	if err = cmp.Or(broker.settle(), err); err != nil {
		broker.beginOutage(err)
		return err
	}
	return broker.endOutage()
}

// take takes all notices, and about as many messages as one write holds, but at
// most due. It returns how many messages it took. Since it takes both under one
// lock, and notices are written first, no message is written before its notices.
func (broker *Broker) take(due int) int {
	const aroundData = 64 // bytes of a line, roughly
	state, taken := &broker.state, &broker.taken
	state.Lock()
	defer state.Unlock()
	taken.reset(state.notices.take())
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

// writeTaken writes what was taken, or goes on where writing it failed.
func (broker *Broker) writeTaken() error {
	taken, log := &broker.taken, &broker.log
	now := time.Now() // for all messages that were taken: one write or a little more
	err := broker.look(now)
	if err == nil {
		err = log.finish()
	}
	for taken.formatted < taken.lines() && err == nil {
		at := taken.formatted
		taken.formatted++
		if at < len(taken.notices) {
			err = log.notice(&taken.notices[at])
		} else {
			err = log.message(now, taken.messages[at-len(taken.notices)])
		}
	}
	if err == nil {
		err = log.flush()
	}
	for range log.takeWritten() {
		if at := taken.written - len(taken.notices); at >= 0 {
			taken.unsettled.messages++
			taken.unsettled.bytes += messageBytes(taken.messages[at])
			taken.messages[at] = nil // keep no message alive
		}
		taken.written++
	}
	return err
}

// settle takes the messages that are written off the account, once they are on disk
// if that is wanted, and the notices once all of them are written.
func (broker *Broker) settle() error {
	state, taken := &broker.state, &broker.taken
	settled := taken.unsettled
	if settled.messages > 0 && broker.store != nil {
		if err := broker.store.sync(); err != nil {
			return err
		}
		wakeUp(broker.log.progress)
	}
	taken.unsettled.messages, taken.unsettled.bytes = 0, 0
	state.Lock()
	state.queuedMessages -= settled.messages
	state.accountedBytes -= settled.bytes
	if taken.written >= len(taken.notices) {
		state.notices.release(taken.noticeBytes)
		taken.noticeBytes = 0
	}
	state.Unlock()
	if settled.messages > 0 {
		wakeUp(broker.written)
	}
	return nil
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
