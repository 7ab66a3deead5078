package broker

import (
	"mbus/internal/apiv1"
	"mbus/internal/shared/queue"
)

// Topic is a name and the queue of the messages with that topic. It is not safe for concurrent
// use. The lock of Broker.state guards it.
type Topic struct {
	Name  string
	Queue *queue.MessageQueue

	fromPayload int // how many messages of the payload that is being queued are for the topic
}

// NewTopic returns a topic with an empty queue.
func NewTopic(name string) *Topic {
	return &Topic{Name: name, Queue: queue.New()}
}

// Dispatch puts message at the end of the topic's queue.
func (topic *Topic) Dispatch(message *apiv1.Message) {
	if topic.fromPayload == 0 {
		topic.Queue.Enqueue(message)
	} else {
		topic.Queue.Extend(message)
	}
	topic.fromPayload++
}
