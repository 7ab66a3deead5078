// Package queue holds the messages of one topic until they are drained.
package queue

import (
	"container/list"

	"mbus/internal/apiv1"
)

// MessageQueue is a FIFO queue of messages. Every operation takes constant
// time, amortised. It is not safe for concurrent use; its zero value is an empty
// queue.
type MessageQueue struct {
	runs   list.List // of *run, none of them empty
	length int
}

// run is an element of the list: messages that came together, in order. A list
// element for each would take more time and memory than all else in the queue.
type run struct {
	messages []*apiv1.Message  // that are still there
	single   [1]*apiv1.Message // where they are as long as there is but one
}

// New returns an empty queue.
func New() *MessageQueue {
	return &MessageQueue{}
}

// Enqueue puts message at the end.
func (queue *MessageQueue) Enqueue(message *apiv1.Message) {
	run := &run{single: [1]*apiv1.Message{message}}
	run.messages = run.single[:]
	queue.runs.PushBack(run)
	queue.length++
}

// Extend puts message at the end, into the element of the message before it if
// that is still there: it is Enqueue for messages that came together.
func (queue *MessageQueue) Extend(message *apiv1.Message) {
	back := queue.runs.Back()
	if back == nil {
		queue.Enqueue(message)
		return
	}
	run := back.Value.(*run)
	run.messages = append(run.messages, message)
	run.single[0] = nil // it has been copied
	queue.length++
}

// Dequeue takes the message at the front, or returns nil if the queue is empty.
func (queue *MessageQueue) Dequeue() *apiv1.Message {
	front := queue.runs.Front()
	if front == nil {
		return nil
	}
	run := front.Value.(*run)
	message := run.messages[0]
	run.messages[0] = nil // keep no message alive
	run.messages = run.messages[1:]
	if len(run.messages) == 0 {
		queue.runs.Remove(front)
	}
	queue.length--
	return message
}

// Len returns the number of queued messages.
func (queue *MessageQueue) Len() int {
	return queue.length
}
