package queue_test

import (
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/queue"
)

func TestQueueIsFIFO(t *testing.T) {
	messages := queue.New()
	if messages.Len() != 0 || messages.Dequeue() != nil {
		t.Fatal("a new queue is not empty")
	}
	var in, out []*apiv1.Message
	// Three in and two out, so that the queue grows while messages are taken.
	for round := range 100 {
		if count := round % 4; count > 0 {
			messages.Reserve(count)
		}
		for range 3 {
			message := &apiv1.Message{Topic: "t"}
			in = append(in, message)
			messages.Enqueue(message)
		}
		for range 2 {
			out = append(out, messages.Dequeue())
		}
		if want := len(in) - len(out); messages.Len() != want {
			t.Fatalf("Len() = %d, want %d", messages.Len(), want)
		}
	}
	for messages.Len() > 0 {
		out = append(out, messages.Dequeue())
	}
	if messages.Dequeue() != nil {
		t.Error("Dequeue of an empty queue returns a message")
	}
	if len(out) != len(in) {
		t.Fatalf("%d messages went in, %d came out", len(in), len(out))
	}
	for i := range in {
		if out[i] != in[i] {
			t.Fatalf("message %d came out of order", i)
		}
	}
}

func TestZeroQueueIsEmpty(t *testing.T) {
	var messages queue.MessageQueue
	if messages.Len() != 0 || messages.Dequeue() != nil {
		t.Error("the zero queue is not empty")
	}
	messages.Enqueue(&apiv1.Message{})
	if messages.Len() != 1 || messages.Dequeue() == nil {
		t.Error("the zero queue can't be used")
	}
}
