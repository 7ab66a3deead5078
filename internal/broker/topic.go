package broker

import (
	"mbus/internal/apiv1"
	"mbus/internal/shared/queue"
)

// Topic is a name and the messages that wait under it. It is not safe for
// concurrent use: Broker.mutex guards it.
type Topic struct {
	Name  string
	Queue *queue.MessageQueue

	// What the payload that is being queued has done so far, for the notices:
	// made the topic, and brought it so many messages.
	made    bool
	brought int
}

// NewTopic returns a topic with an empty queue.
func NewTopic(name string) *Topic {
	return &Topic{Name: name, Queue: queue.New(), made: true}
}

// Dispatch puts message at the end of the topic's queue.
func (topic *Topic) Dispatch(message *apiv1.Message) {
	if topic.brought == 0 {
		topic.Queue.Enqueue(message)
	} else {
		topic.Queue.Extend(message)
	}
	topic.brought++
}
