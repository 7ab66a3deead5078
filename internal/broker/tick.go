package broker

import (
	"cmp"
	"time"
)

const (
	// retryInterval is the time between two drains at interval 0, where only
	// a log that failed needs them.
	retryInterval = time.Second

	// noticeTime is how long notices wait for others: a wake-up for each
	// would cost a busy broker more than queueing does.
	noticeTime = 10 * time.Millisecond

	// lookInterval is how often a store looks at the name of its file at least.
	lookInterval = time.Second

	// lastRetry is the time between two drains of a broker that stops.
	lastRetry = 100 * time.Millisecond

	// maxEmptyTopics is how many topics may be known before the drain forgets
	// those that are empty.
	maxEmptyTopics = 10_000
)

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

// lastDrain drains until everything is written, the line that the broker is stopped
// last, or the log is gone.
func (broker *Broker) lastDrain() error {
	for stopped := false; ; {
		broker.nextLook = time.Time{}
		switch err := broker.Drain(); {
		case broker.log.isPermanent(err), err == nil && stopped:
			return err
		case err == nil:
			stopped = true
			broker.notify("Broker: stopped")
		default:
			time.Sleep(lastRetry)
		}
	}
}

// Drain writes all notices, and a line for every message that is queued when it
// begins, in the order of arrival. A message whose line can't be written stays
// queued, in its place, and Drain returns the error. The ticker goroutine calls
// it; nobody else may while ProducerListen runs.
func (broker *Broker) Drain() error {
	broker.state.Lock()
	due := broker.state.waitingMessages
	roomWanted := broker.state.roomWanted
	broker.state.roomWanted = false
	broker.state.Unlock()

	err := broker.write(due)

	broker.state.Lock()
	broker.forgetTopicsLocked(roomWanted)
	broker.state.Unlock()
	return err
}

// forgetTopicsLocked forgets empty topics: all of them, or those beyond
// maxEmptyTopics.
func (broker *Broker) forgetTopicsLocked(all bool) {
	kept := maxEmptyTopics
	if all {
		kept = 0
	}
	for name, topic := range broker.topics {
		if len(broker.topics) <= kept {
			break
		}
		if topic.Queue.Len() == 0 {
			delete(broker.topics, name)
			broker.state.accountedBytes -= topicBytes(name)
			wakeUp(broker.written)
		}
	}
}
