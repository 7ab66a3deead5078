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
	messages []*apiv1.Message
}

// New returns an empty queue.
func New() *MessageQueue {
	return &MessageQueue{}
}

// Enqueue puts message at the end.
func (q *MessageQueue) Enqueue(message *apiv1.Message) {
	q.runs.PushBack(&run{messages: []*apiv1.Message{message}})
	q.length++
}

// Extend is Enqueue for a message of the same payload as the last message. If the last message
// is still queued, both share a list element.
func (q *MessageQueue) Extend(message *apiv1.Message) {
	back := q.runs.Back()
	if back == nil {
		q.Enqueue(message)
		return
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
