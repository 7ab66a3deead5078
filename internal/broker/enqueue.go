package broker

import (
	"errors"
	"fmt"
	"time"

	"mbus/internal/apiv1"
)

// The memory of a queued message and of a known topic without names and data, in bytes: their
// structures, and their share of the queues and of the payload's framing, rounded up.
const (
	messageOverhead = 128
	topicOverhead   = 512
)

// messageBytes returns how many bytes of MaxQueued message uses.
func messageBytes(message *apiv1.Message) int {
	return messageOverhead + len(message.Topic) + len(message.Data)
}

// topicBytes returns how many bytes of MaxQueued a topic uses, until the drain forgets it.
func topicBytes(name string) int {
	return topicOverhead + len(name)
}

// payloadBytes returns how many bytes of MaxQueued messages and their topics use if all the
// topics are new.
func payloadBytes(messages []*apiv1.Message) int {
	sum := 0
	counted := make(map[string]bool)
	var last string // most messages have the topic of the one before
	for _, message := range messages {
		sum += messageBytes(message)
		if message.Topic != last && !counted[message.Topic] {
			counted[message.Topic] = true
			sum += topicBytes(message.Topic)
		}
		last = message.Topic
	}
	return sum
}

// enqueue queues all messages of a payload and returns nil, or queues none and returns the
// reason. If there is no room, it has the queues drained and waits for room until the deadline.
func (broker *Broker) enqueue(messages []*apiv1.Message, deadline time.Time) error {
	if len(messages) == 0 {
		return nil
	}
	limit := broker.config.MaxQueued
	need := payloadBytes(messages)
	if need > limit {
		return fmt.Errorf(apiv1.TooLarge+"more than an empty queue takes (-max-queued %d)", limit)
	}
	if err := broker.awaitRoom(need, deadline); err != nil {
		return err
	}
	broker.state.Lock()
	for _, message := range messages {
		broker.HandleNewMessage(message)
	}
	broker.announceLocked()
	broker.state.payloadsAccepted++
	broker.state.Unlock()
	return nil
}

// awaitRoom waits until need bytes fit into the queue. If they don't fit at the deadline, or if
// the log is gone, it returns the reason of the refusal.
func (broker *Broker) awaitRoom(need int, deadline time.Time) error {
	state := &broker.state
	fits := broker.await(deadline, func() bool {
		state.roomWanted = state.accountedBytes+need > broker.config.MaxQueued
		return !state.roomWanted
	})
	switch {
	case isClosed(broker.ended):
		return errors.New(apiv1.LogGone)
	case !fits:
		return errors.New(apiv1.QueueFull)
	}
	return nil
}

// awaitWritten waits until no message is queued, or until the deadline. It reports whether no
// message is queued.
func (broker *Broker) awaitWritten(deadline time.Time) bool {
	return broker.await(deadline, func() bool { return broker.state.queuedMessages == 0 })
}

// await has the ticker goroutine drain until condition holds, until the deadline, or until the
// log is gone. It reports whether condition holds. It holds the lock of broker.state while it
// calls condition.
func (broker *Broker) await(deadline time.Time, condition func() bool) bool {
	for expired := false; ; {
		broker.state.Lock()
		holds := condition()
		broker.state.Unlock()
		if holds || expired || isClosed(broker.ended) {
			return holds
		}
		wakeUp(broker.wake)
		select {
		case <-broker.written:
		case <-broker.ended:
		case <-time.After(time.Until(deadline)):
			expired = true
		}
	}
}
