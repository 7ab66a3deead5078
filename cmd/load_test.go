//go:build unix

package cmd_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

// writer is one producer of a load. It sends numbered messages until one is not accepted.
type writer struct {
	name    string
	acked   int // how many messages were accepted
	unknown int // how many more may have been accepted
}

// load starts count producers. Each sends batches of up to maxBatch messages to the broker
// until one of its batches is not accepted. The function finish waits until all producers have
// ended, and returns what they know.
func (b *brokerProcess) load(count, maxBatch int) (finish func() []*writer) {
	var group sync.WaitGroup
	writers := make([]*writer, count)
	for i := range writers {
		writers[i] = &writer{name: fmt.Sprint("writer", i)}
		p, topic := b.producer(), fmt.Sprint("topic", i%2)
		group.Go(func() {
			for err := error(nil); err == nil; {
				err = writers[i].sendBatch(b.t, p, topic, 1+rand.IntN(maxBatch))
			}
		})
	}
	return func() []*writer {
		group.Wait()
		return writers
	}
}

// sendBatch sends the next count messages.
func (w *writer) sendBatch(t *testing.T, p *producer.Producer, topic string, count int) error {
	batch := make([]*apiv1.Message, count)
	for i := range batch {
		padding := strings.Repeat("x", rand.IntN(200))
		text := fmt.Sprintf("%s %d %s", w.name, w.acked+i, padding)
		batch[i] = &apiv1.Message{Topic: topic, Data: []byte(text)}
	}
	err := p.Send(t.Context(), batch)
	switch {
	case err == nil:
		w.acked += count
	case errors.Is(err, producer.ErrUnknown):
		w.unknown = count
	}
	return err
}

// tally has the result of verify, which compares a log with what writers know.
type tally struct {
	acked   int // messages that were accepted
	unknown int // messages that may have been accepted
	lost    int // accepted messages that are not in the log
	extra   int // messages that the log has again, or after a later one
}

// verify compares a log with what the writers know. It fails the test unless the log has each
// accepted message once and in order. Of a payload with an unknown outcome, the log must have
// all messages or none. If the broker was killed, the last line may be torn, and the log may
// have a part of that payload.
func verify(t *testing.T, log string, writers []*writer, killed bool) (sum tally) {
	t.Helper()
	if !killed && !strings.HasSuffix(log, "\n") {
		t.Fatalf("the last line is torn: %.100q", log[strings.LastIndexByte(log, '\n')+1:])
	}
	next := make(map[string]int) // the number that is expected next, by writer
	for _, message := range bustest.Messages(t, log) {
		name, rest, _ := strings.Cut(message.Data, " ")
		digits, _, _ := strings.Cut(rest, " ")
		number, err := strconv.Atoi(digits)
		if err != nil {
			t.Fatalf("no writer sent %.100q", message.Data)
		}
		if number < next[name] {
			sum.extra++
			continue
		}
		sum.lost += number - next[name]
		next[name] = number + 1
	}
	for _, writer := range writers {
		sum.acked += writer.acked
		sum.unknown += writer.unknown
		sum.lost += max(writer.acked-next[writer.name], 0)
		more := next[writer.name] - writer.acked
		if more > 0 && more != writer.unknown && !(killed && more < writer.unknown) {
			t.Fatalf("%s: the log has %d messages beyond the %d that were accepted, "+
				"want 0 or the %d with unknown outcome",
				writer.name, more, writer.acked, writer.unknown)
		}
		delete(next, writer.name)
	}
	if sum.lost > 0 || sum.extra > 0 || len(next) > 0 {
		t.Fatalf("of %d accepted messages %d are lost, and %d are repeated or out of order; "+
			"unknown writers: %v", sum.acked, sum.lost, sum.extra, next)
	}
	return sum
}

// add adds the tally of another round.
func (t *tally) add(other tally) {
	t.acked += other.acked
	t.unknown += other.unknown
	t.lost += other.lost
	t.extra += other.extra
}

// pause sleeps for a random time of up to most. It chooses the moment of a signal or of a rotation.
func pause(most time.Duration) {
	time.Sleep(time.Duration(rand.Int64N(int64(most))))
}
