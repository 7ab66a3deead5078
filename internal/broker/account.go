package broker

import (
	"errors"
	"fmt"
	"time"

	"mbus/internal/apiv1"
)

// What a queued message and a known topic take besides their names and data, in
// bytes: their structures, their share of the queues and of the payload's
// framing, rounded up.
const (
	messageOverhead = 128
	topicOverhead   = 512
)

// messageCost returns what message counts towards MaxQueued, in bytes.
func messageCost(message *apiv1.Message) int {
	return messageOverhead + len(message.Topic) + len(message.Data)
}

// topicCost returns what a topic counts towards MaxQueued, in bytes, from its
// making until the drain forgets it.
func topicCost(name string) int {
	return topicOverhead + len(name)
}

// payloadCost returns what messages cost in an empty queue, where all their
// topics are new. It stops counting at more than limit. It counts a topic once and
// keeps that in counted; if that is nil, it counts a topic again after another,
// and so too much, but soon.
func payloadCost(messages []*apiv1.Message, limit int, counted map[string]bool) int {
	cost := 0
	var name string
	for _, message := range messages {
		cost += messageCost(message)
		if message.Topic != name {
			name = message.Topic
			if !counted[name] {
				cost += topicCost(name)
			}
			if counted != nil {
				counted[name] = true
			}
		}
		if cost > limit {
			break
		}
	}
	return cost
}

// enqueue queues messages, which are the whole of a payload, or none of them and
// returns why. If there is no room it has the queues drained and waits for room
// until the deadline.
func (broker *Broker) enqueue(messages []*apiv1.Message, deadline time.Time) error {
	if len(messages) == 0 {
		return nil
	}
	limit := broker.config.MaxQueued
	need := payloadCost(messages, limit, nil)
	broker.mutex.Lock()
	fits := broker.cost+need <= limit
	broker.mutex.Unlock()
	if !fits {
		need = payloadCost(messages, limit, make(map[string]bool))
	}
	if need > limit {
		return fmt.Errorf(apiv1.TooLarge+"more than an empty queue takes (-max-queued %d)", limit)
	}
	room := broker.await(deadline, func() bool {
		broker.full = broker.cost+need > limit
		return !broker.full
	})
	if closed(broker.ended) {
		return errors.New(apiv1.LogGone)
	}
	if !room {
		return errors.New(apiv1.QueueFull)
	}
	broker.mutex.Lock()
	for _, message := range messages {
		broker.HandleNewMessage(message)
	}
	broker.announce()
	broker.mutex.Unlock()
	return nil
}

// await waits until ready, which it calls with broker.mutex held, returns true.
// It tells whether that was before the deadline and the end of the ticker
// goroutine. Only the loop may call it.
func (broker *Broker) await(deadline time.Time, ready func() bool) bool {
	var expired <-chan time.Time
	for {
		broker.mutex.Lock()
		done := ready()
		broker.mutex.Unlock()
		if done {
			return true
		}
		if expired == nil {
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			expired = timer.C
		}
		signal(broker.wake) // it may have to drain, or to forget topics
		select {
		case <-broker.written:
		case <-broker.ended:
			return false
		case <-expired:
			return false
		}
	}
}

// drainWanted tells the ticker goroutine whether to drain before the next tick.
func (broker *Broker) drainWanted() bool {
	broker.mutex.Lock()
	defer broker.mutex.Unlock()
	return broker.full || broker.config.Interval == 0
}

// forgetTopics forgets empty topics: all of them if the loop waits for room,
// else those above maxEmptyTopics. It tells whether there were any. The caller holds
// broker.mutex.
func (broker *Broker) forgetTopics(full bool) bool {
	kept := maxEmptyTopics
	if full {
		kept = 0
	}
	before := len(broker.topics)
	for name, topic := range broker.topics {
		if len(broker.topics) <= kept {
			break
		}
		if topic.Queue.Len() == 0 {
			delete(broker.topics, name)
			broker.cost -= topicCost(name)
		}
	}
	return len(broker.topics) < before
}
