package broker

import (
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
// count what is in the queues, in the order in which it came: so a payload is
// drained as a whole, and its memory freed, however many topics it has.
type arrival struct {
	topic *Topic
	count int
}

// batch is what the ticker goroutine has taken from the queues for one write,
// and not written yet. It still counts as queued.
type batch struct {
	messages  []*apiv1.Message
	formatted int // how many of messages have gone to the log writer
	unwritten int // how many of messages count as queued
	cost      int // what messages cost, all of them
}

// tick is the ticker goroutine's work: it writes the log until stopping is
// closed and everything is written, or until the log is gone. Between two drains
// it writes the notices as they come.
func (broker *Broker) tick(stopping <-chan struct{}) error {
	interval := broker.config.Interval
	if interval == 0 {
		interval = retryInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var due <-chan time.Time // when the notices are to be written
	for {
		var err error
		select {
		case <-ticker.C:
			err = broker.Drain()
		case <-broker.wake:
			if broker.drainWanted() {
				err = broker.Drain()
			} else if due == nil {
				due = time.After(noticeTime)
			}
		case <-due:
			due = nil
			err = broker.write(false)
		case <-stopping:
			for {
				if err := broker.Drain(); err == nil || gone(err) {
					return err
				}
				time.Sleep(lastRetry)
			}
		}
		if gone(err) {
			return err
		}
	}
}

// Drain writes all notices and then a line for every message that is queued when
// it begins, in the order of arrival. A message whose line can't be written stays
// queued, in its place, and Drain returns the error. The ticker goroutine calls
// it; nobody else may while ProducerListen runs.
func (broker *Broker) Drain() error {
	return broker.write(true)
}

// write writes what an error left over, the notices, and, for a drain, the queued
// messages that are there when it begins. The arrivals are taken before the
// notices and these are written before each batch, so that no message overtakes
// its notices, and these do not wait for a drain that takes long.
func (broker *Broker) write(drain bool) error {
	var arrivals []arrival
	var full bool
	broker.mutex.Lock()
	broker.told = false
	if drain {
		arrivals, full = broker.arrivals, broker.full
		broker.arrivals, broker.full = nil, false
	}
	broker.mutex.Unlock()

	err := broker.writeBatch()
	if err == nil {
		err = broker.writeNotices()
	}
	for len(arrivals) > 0 && err == nil {
		arrivals = broker.takeBatch(arrivals)
		if err = broker.writeBatch(); err == nil {
			err = broker.writeNotices()
		}
	}
	if err == nil {
		err = broker.log.tellOutage()
	}
	if !drain {
		return err
	}

	broker.mutex.Lock()
	if len(arrivals) > 0 {
		broker.arrivals = append(arrivals, broker.arrivals...)
	}
	forgotten := broker.forgetTopics(full)
	broker.mutex.Unlock()
	if forgotten {
		signal(broker.written)
	}
	return err
}

// writeNotices writes the notices that wait when it begins.
func (broker *Broker) writeNotices() error {
	broker.mutex.Lock()
	count := len(broker.notices.waiting)
	broker.mutex.Unlock()
	for {
		broker.mutex.Lock()
		notices := broker.notices.take(count)
		broker.mutex.Unlock()
		if len(notices) == 0 {
			return broker.log.flush() // of what an error left over
		}
		count -= len(notices)
		for i := range notices {
			broker.log.notice(&notices[i])
		}
		if err := broker.log.flush(); err != nil {
			return err
		}
	}
}

// takeBatch takes about as many messages as one write holds from the front of
// arrivals, and returns the rest of arrivals.
func (broker *Broker) takeBatch(arrivals []arrival) []arrival {
	const aroundData = 64 // bytes of a line, roughly
	broker.mutex.Lock()
	defer broker.mutex.Unlock()
	batch := &broker.batch
	for size := 0; len(arrivals) > 0 && size < writeSize; {
		message := arrivals[0].topic.Queue.Dequeue()
		batch.messages = append(batch.messages, message)
		batch.unwritten++
		batch.cost += messageCost(message)
		size += aroundData + len(message.Data)
		if arrivals[0].count--; arrivals[0].count == 0 {
			arrivals = arrivals[1:]
		}
	}
	return arrivals
}

// writeBatch writes the batch, or goes on where writing it failed, and takes
// what was written off the account.
func (broker *Broker) writeBatch() error {
	batch := &broker.batch
	now := time.Now() // for the whole batch, which is of one write or a little more
	err := broker.log.finish()
	for err == nil && batch.formatted < len(batch.messages) {
		message := batch.messages[batch.formatted]
		batch.messages[batch.formatted] = nil
		batch.formatted++
		err = broker.log.message(now, message)
	}
	if err == nil {
		err = broker.log.flush()
	}
	if batch.unwritten == 0 {
		return err // there was no batch: what the buffer holds are notices
	}

	left := len(batch.messages) - batch.formatted + broker.log.lines()
	if left == batch.unwritten {
		return err
	}
	broker.mutex.Lock()
	broker.queued -= batch.unwritten - left
	if left == 0 {
		broker.cost -= batch.cost
	}
	broker.mutex.Unlock()
	signal(broker.written)

	batch.unwritten = left
	if left == 0 {
		batch.messages, batch.formatted, batch.cost = batch.messages[:0], 0, 0
	}
	return err
}
