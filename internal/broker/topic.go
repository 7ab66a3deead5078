package broker

import (
	"mbus/internal/apiv1"
	"mbus/internal/shared/queue"
)

const (
	// The memory of a queued message and of a known topic, in bytes, rounded up. Names and data
	// are not included, but the structures are, and the framing of the payload.
	messageOverhead = 128
	topicOverhead   = 512
)

// Topic is a name and the queue of the messages on that topic. It is not safe for concurrent use.
// The mutex of queues guards it.
type Topic struct {
	Name  string
	Queue *queue.MessageQueue
}

// NewTopic returns a topic with an empty queue.
func NewTopic(name string) *Topic {
	return &Topic{Name: name, Queue: queue.New()}
}

// Dispatch puts message at the end of the topic's queue.
func (t *Topic) Dispatch(message *apiv1.Message) {
	t.Queue.Enqueue(message)
}

// messageBytes returns how many bytes of MaxQueued message uses until it is written.
func messageBytes(message *apiv1.Message) int {
	return messageOverhead + len(message.Topic) + len(message.Data)
}

// topicBytes returns how many bytes of MaxQueued a topic uses until it is forgotten.
func topicBytes(name string) int {
	return topicOverhead + len(name)
}
