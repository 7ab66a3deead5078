package broker

import (
	"errors"
	"fmt"
	"time"

	"mbus/internal/apiv1"
)

// What a queued message and a known topic take besides their names and data, in
// bytes: their structures, and their share of the queues and of the payload's
// framing, rounded up.
const (
	messageOverhead = 128
	topicOverhead   = 512
)

// messageBytes returns what message counts towards MaxQueued.
func messageBytes(message *apiv1.Message) int {
	return messageOverhead + len(message.Topic) + len(message.Data)
}

// topicBytes returns what a topic counts towards MaxQueued, from its making until
// the drain forgets it.
func topicBytes(name string) int {
	return topicOverhead + len(name)
}

// payloadBytes returns what messages count in an empty queue, where all their
// topics are new.
func payloadBytes(messages []*apiv1.Message) int {
	sum := 0
	counted := make(map[string]bool)
	var last string
	for _, message := range messages {
		sum += messageBytes(message)
		if message.Topic == last {
			continue
		}
		last = message.Topic
		if !counted[last] {
			counted[last] = true
			sum += topicBytes(last)
		}
	}
	return sum
}

// enqueue queues all messages of a payload. Otherwise it queues none and returns
// the reason. If there is no room it has the queues drained, and waits for room
// until the deadline.
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
	broker.state.counts.payloadsAccepted++
	broker.state.Unlock()
	return nil
}

// awaitRoom waits until need bytes fit into the queue. It returns the reason to
// refuse them if they don't fit at the deadline, or if the log is gone.
func (broker *Broker) awaitRoom(need int, deadline time.Time) error {
	for {
		broker.state.Lock()
		fits := broker.state.accountedBytes+need <= broker.config.MaxQueued
		broker.state.roomWanted = !fits
		broker.state.Unlock()
		switch {
		case isClosed(broker.ended):
			return errors.New(apiv1.LogGone)
		case fits:
			return nil
		case !broker.awaitDrain(deadline):
			return errors.New(apiv1.QueueFull)
		}
	}
}

// awaitWritten waits until no message is queued. It returns false if that is not
// before the deadline and before the log is gone.
func (broker *Broker) awaitWritten(deadline time.Time) bool {
	for {
		broker.state.Lock()
		done := broker.state.queuedMessages == 0
		broker.state.Unlock()
		if done || isClosed(broker.ended) || !broker.awaitDrain(deadline) {
			return done
		}
	}
}

// awaitDrain has the ticker goroutine drain, and waits until it has written
// something or ended. It returns false at the deadline.
func (broker *Broker) awaitDrain(deadline time.Time) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	wakeUp(broker.wake)
	select {
	case <-broker.written:
	case <-broker.ended:
	case <-timer.C:
		return false
	}
	return true
}
