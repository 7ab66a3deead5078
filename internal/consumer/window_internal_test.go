package consumer

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"mbus/internal/shared/follow"
)

// at returns the position after the message with a number.
func at(number int) follow.Position {
	return follow.Position{Log: 1, Number: 1, Offset: int64(number + 1)}
}

// A process that ends at any moment leaves a state after which the next one starts exactly those
// messages, in order, that were not finished before the last save. Up to 256 are started from the
// first unfinished one on.
func TestWindowRestarts(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a state is not supported on Windows")
	}
	finished := make([]bool, 3000) // by a process, before its last save
	path := filepath.Join(t.TempDir(), "state")
	for next := 0; next < len(finished); {
		w := newWindow([]string{"b", "a"})
		position, saved, _, err := w.open(path)
		if err != nil {
			t.Fatal(err)
		}
		if next = int(position.Offset); next > 0 && !finished[next-1] {
			t.Fatalf("the position is after message %d, which is not finished", next-1)
		}
		for i, delivered := range saved.done {
			each := &started{checksum: uint32(next + i), delivered: delivered}
			w.earlier = append(w.earlier, each)
		}
		if saved.done != nil && doneSum(w.topics, w.earlier) != saved.sum {
			t.Fatalf("the note after message %d has a wrong checksum", next-1)
		}
		next = useWindow(t, w, next, finished)
		w.close()
	}
}

// useWindow starts messages from next on, finishes some of them and saves, at random. It returns
// the next message.
func useWindow(t *testing.T, w *window, next int, finished []bool) int {
	t.Helper()
	running := make(map[*started]int) // the number of each message
	var unsaved []int
	for range rand.IntN(600) {
		if rand.IntN(2) == 0 && next < len(finished) && len(w.started) < maxStarted {
			w.await(t.Context())
			s := w.start(at(next), uint32(next))
			if delivered := s == nil; delivered != finished[next] {
				t.Fatalf("message %d: delivered is %t", next, delivered)
			}
			if s != nil {
				running[s] = next
			}
			next++
		}
		for s, number := range running { // a random one
			if rand.IntN(3) == 0 {
				w.finish(s)
				delete(running, s)
				unsaved = append(unsaved, number)
			}
			break
		}
		if rand.IntN(8) == 0 {
			if err := w.save(); err != nil {
				t.Fatal(err)
			}
			for _, number := range unsaved {
				finished[number] = true
			}
			unsaved = nil
		}
	}
	return next
}

// While 256 messages are started and the first is unfinished, await waits.
func TestWindowIsFull(t *testing.T) {
	w := newWindow(nil)
	var first *started
	for number := range maxStarted {
		w.await(t.Context())
		s := w.start(at(number), 0)
		if number == 0 {
			first = s
		} else {
			w.finish(s)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if w.await(ctx); ctx.Err() == nil {
		t.Fatal("it did not wait")
	}
	returned := make(chan struct{})
	go func() {
		w.await(t.Context())
		close(returned)
	}()
	w.finish(first)
	select {
	case <-returned:
	case <-time.After(20 * time.Second):
		t.Fatal("it still waits")
	}
}
