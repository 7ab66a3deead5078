package broker

import (
	"cmp"
	"time"
)

const (
	// retryInterval is the time between two ticks at interval 0. Only a log that has
	// failed needs these ticks.
	retryInterval = time.Second

	// noticeTime is how long notices wait for others. To wake the ticker goroutine for
	// each would cost a busy broker more than queueing the messages.
	noticeTime = 10 * time.Millisecond

	// lookInterval is the longest time between two looks of a store at its file's name.
	lookInterval = time.Second

	// lastRetry is the time between two drains of a broker that stops.
	lastRetry = 100 * time.Millisecond

	// While more than maxEmptyTopics topics are known, the drain forgets empty ones.
	maxEmptyTopics = 10_000
)

// tickLoop is the ticker goroutine. It drains at each tick and when the loop waits for a drain,
// and writes notices within noticeTime. It returns when served is closed and everything is
// written, or when the log is gone.
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

// drainWanted reports whether the loop waits for a drain.
func (broker *Broker) drainWanted() bool {
	broker.state.Lock()
	defer broker.state.Unlock()
	return broker.state.roomWanted || broker.config.Interval == 0
}

// lastDrain drains until everything is written, or until the log is gone. The last line reports
// that the broker has stopped.
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

// Drain writes all notices, and a line for each message that is queued when it begins, in the
// order of arrival. If it can't write a line, it returns the error, and that message and those
// after it stay queued, in their order. While ProducerListen runs, only the ticker goroutine
// may call Drain.
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

// forgetTopicsLocked forgets all empty topics, or as many as are known beyond maxEmptyTopics.
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
