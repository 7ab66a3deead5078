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

	// lastRetry is the time between two drains of a broker that stops.
	lastRetry = 100 * time.Millisecond
)

// arrival is a run of messages that one topic received.
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
	for {
		var err error
		select {
		case <-ticker.C:
			err = broker.Drain()
		case <-broker.wake:
			err = broker.write(broker.drainWanted())
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
		if err == nil {
			if notice := broker.log.outage(); notice != "" {
				broker.notify(notice)
			}
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
// messages: all that are there when it begins. What arrives later waits, so that
// no message overtakes its notices and no stream of these keeps it waiting.
func (broker *Broker) write(drain bool) error {
	err := broker.writeBatch()

	broker.mutex.Lock()
	notices := len(broker.notices.lines)
	var arrivals []arrival
	var full bool
	if drain {
		arrivals, full = broker.arrivals, broker.full
		broker.arrivals, broker.full = nil, false
	}
	broker.mutex.Unlock()

	if err == nil {
		err = broker.writeNotices(notices)
	}
	for len(arrivals) > 0 && err == nil {
		arrivals = broker.takeBatch(arrivals)
		err = broker.writeBatch()
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

// writeNotices writes the first count notices, and how many were dropped.
func (broker *Broker) writeNotices(count int) error {
	for {
		broker.mutex.Lock()
		lines := broker.notices.take(count)
		broker.mutex.Unlock()
		if len(lines) == 0 {
			return broker.log.flush() // of what an error left over
		}
		count -= len(lines)
		for _, line := range lines {
			broker.log.notice(line)
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
	err := broker.log.finish()
	for err == nil && batch.formatted < len(batch.messages) {
		message := batch.messages[batch.formatted]
		batch.messages[batch.formatted] = nil
		batch.formatted++
		err = broker.log.message(message)
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
