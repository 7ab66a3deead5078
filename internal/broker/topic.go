package broker

import (
	"mbus/internal/apiv1"
	"mbus/internal/shared/queue"
)

// Topic is a name and the queue of the messages with that topic. It is not safe for concurrent
// use. The mutex of Broker.queues guards it.
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
