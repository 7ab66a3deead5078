// Package queue holds the messages of one topic until they are drained.
package queue

import (
	"container/list"

	"mbus/internal/apiv1"
)

// MessageQueue is a FIFO queue of messages. Every operation takes constant time, amortized.
// The zero value is an empty queue. A MessageQueue is not safe for concurrent use.
type MessageQueue struct {
	runs   list.List // of *run, none of them empty
	length int
}

// run is an element of the list: messages of one payload, in order. A list element for each
// message would need more time and memory than the rest of the queue.
type run struct {
	messages []*apiv1.Message // with room for those that are still to come
}

// New returns an empty queue.
func New() *MessageQueue {
	return &MessageQueue{}
}

// Reserve makes the next count messages share one list element. They must be put into the queue
// before any is removed.
func (q *MessageQueue) Reserve(count int) {
	q.runs.PushBack(&run{messages: make([]*apiv1.Message, 0, count)})
}

// Enqueue puts message at the end.
func (q *MessageQueue) Enqueue(message *apiv1.Message) {
	back := q.runs.Back()
	if back == nil || len(back.Value.(*run).messages) == cap(back.Value.(*run).messages) {
		q.Reserve(1)
		back = q.runs.Back()
	}
	last := back.Value.(*run)
	last.messages = append(last.messages, message)
	q.length++
}

// Dequeue removes and returns the message at the front, or returns nil if the queue is empty.
func (q *MessageQueue) Dequeue() *apiv1.Message {
	front := q.runs.Front()
	if front == nil {
		return nil
	}
	first := front.Value.(*run)
	message := first.messages[0]
	first.messages[0] = nil // keep no message alive
	first.messages = first.messages[1:]
	if len(first.messages) == 0 {
		q.runs.Remove(front)
	}
	q.length--
	return message
}

// Len returns the number of queued messages.
func (q *MessageQueue) Len() int {
	return q.length
}
