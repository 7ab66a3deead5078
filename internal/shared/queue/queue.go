// Package queue holds the messages of one topic until they are drained.
package queue

import (
	"container/list"

	"mbus/internal/apiv1"
)

// MessageQueue is a FIFO queue of messages. Every operation takes constant
// time. It is not safe for concurrent use; its zero value is an empty queue.
type MessageQueue struct {
	messages list.List
}

// New returns an empty queue.
func New() *MessageQueue {
	return &MessageQueue{}
}

// Enqueue puts message at the end.
func (queue *MessageQueue) Enqueue(message *apiv1.Message) {
	queue.messages.PushBack(message)
}

// Dequeue takes the message at the front, or returns nil if the queue is empty.
func (queue *MessageQueue) Dequeue() *apiv1.Message {
	front := queue.messages.Front()
	if front == nil {
		return nil
	}
	return queue.messages.Remove(front).(*apiv1.Message)
}

// Len returns the number of queued messages.
func (queue *MessageQueue) Len() int {
	return queue.messages.Len()
}
