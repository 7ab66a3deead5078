package producer_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
	"mbus/internal/shared/encoder"
)

// scripted starts a server that answers one payload after the other, and returns a producer with
// AtLeastOnce for it. An answer is nil for none. The last one is repeated.
func scripted(t *testing.T, answers ...*apiv1.Reply) *producer.Producer {
	t.Helper()
	listener := bustest.Listen(t)
	go func() {
		for number := 0; ; number++ {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			io.Copy(io.Discard, connection)
			if reply := answers[min(number, len(answers)-1)]; reply != nil {
				encoded, _ := encoder.NewMsgpackEncoder().EncodeReply(reply)
				connection.Write(encoded)
			}
			connection.Close()
		}
	}()
	return newProducer(t, listener.Addr().String(), func(config *producer.ProducerConfig) {
		config.Retry, config.AtLeastOnce = 500*time.Millisecond, true
	})
}

// Once an attempt may have been accepted, the outcome of giving up is unknown, whatever the last
// attempt says.
func TestDoubt(t *testing.T) {
	accepted, full := &apiv1.Reply{Accepted: 1}, &apiv1.Reply{Error: apiv1.QueueFull}
	wrong := &apiv1.Reply{Error: "message 1: why"}
	for name, test := range map[string]struct {
		answers []*apiv1.Reply
		unknown bool
		text    string // in the error
	}{
		"accepted":             {[]*apiv1.Reply{nil, nil, accepted}, false, "<nil>"},
		"never an answer":      {[]*apiv1.Reply{nil}, true, "the connection ended"},
		"full":                 {[]*apiv1.Reply{full}, false, "queue is full"},
		"unknown, then full":   {[]*apiv1.Reply{nil, full}, true, "queue is full; of an earlier"},
		"unknown, then a flaw": {[]*apiv1.Reply{nil, wrong}, true, "message 1: why; of an earlier"},
	} {
		err := scripted(t, test.answers...).Send(t.Context(), message)
		if errors.Is(err, producer.ErrUnknown) != test.unknown ||
			!strings.Contains(fmt.Sprint(err), test.text) {
			t.Errorf("%s: got %v, want %q, unknown: %t", name, err, test.text, test.unknown)
		}
	}
}

// A payload that may have been accepted, and was then split, leaves its second half in doubt. A
// later payload is not in doubt.
func TestDoubtOfParts(t *testing.T) {
	large := &apiv1.Reply{Error: apiv1.TooLarge + "why"}
	accepted, wrong := &apiv1.Reply{Accepted: 1}, &apiv1.Reply{Error: "message 1: why"}
	p := scripted(t, nil, large, accepted, wrong)
	count := 0
	err := p.SendLines(t.Context(), "t", strings.NewReader("a\nb\n"),
		func(messages, _ int) { count += messages })
	if !errors.Is(err, producer.ErrUnknown) || count != 1 ||
		!strings.HasPrefix(err.Error(), "line 2: ") {
		t.Errorf("after %d messages: %v", count, err)
	}
	err = p.Send(t.Context(), message)
	if err == nil || errors.Is(err, producer.ErrUnknown) {
		t.Errorf("another message: %v, want a refusal that is not in doubt", err)
	}
	p = scripted(t, nil, large, accepted, accepted, wrong)
	if err := p.SendLines(t.Context(), "t", strings.NewReader("a\nb\n"),
		func(int, int) {}); err != nil {
		t.Error(err)
	}
}
