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
	const messages = 3000
	finished := make([]bool, messages) // by a process, before its last save
	for next, path := 0, filepath.Join(t.TempDir(), "state"); next < messages; {
		window := newWindow([]string{"b", "a"})
		position, _, err := window.open(path)
		if err != nil {
			t.Fatal(err)
		}
		if next = int(position.Offset); next > 0 && !finished[next-1] {
			t.Fatalf("the position is after message %d, which is not finished", next-1)
		}
		running := make(map[*started]int) // the number of each message
		var unsaved []int
		for range rand.IntN(600) {
			if rand.IntN(2) == 0 && next < messages && len(window.started) < maxStarted {
				window.await(t.Context())
				message := window.start(at(next))
				if delivered := message == nil; delivered != finished[next] {
					t.Fatalf("message %d: delivered is %t", next, delivered)
				}
				if message != nil {
					running[message] = next
				}
				next++
			}
			for message, number := range running { // a random one
				if rand.IntN(3) == 0 {
					window.finish(message)
					delete(running, message)
					unsaved = append(unsaved, number)
				}
				break
			}
			if rand.IntN(8) == 0 {
				if err := window.save(); err != nil {
					t.Fatal(err)
				}
				for _, number := range unsaved {
					finished[number] = true
				}
				unsaved = nil
			}
		}
		window.close()
	}
}

// Other topics than those of the note make it void.
func TestWindowOtherTopics(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a state is not supported on Windows")
	}
	path := filepath.Join(t.TempDir(), "state")
	open := func(topics ...string) *window {
		window := newWindow(topics)
		if _, _, err := window.open(path); err != nil {
			t.Fatal(err)
		}
		return window
	}
	window := open("a", "b")
	window.await(t.Context())
	window.start(at(0))
	window.await(t.Context())
	second := window.start(at(1))
	window.finish(second)
	if err := window.save(); err != nil {
		t.Fatal(err)
	}
	window.close()
	for topics, want := range map[[2]string]bool{{"b", "a"}: true, {"a", "a"}: false} {
		window := open(topics[:]...)
		if first, second := window.pass(), window.pass(); first || second != want {
			t.Errorf("topics %q: delivered %t, %t, want the second: %t",
				topics, first, second, want)
		}
		window.close()
	}
}

// While 256 messages are started and the first is unfinished, await waits.
func TestWindowIsFull(t *testing.T) {
	window := newWindow(nil)
	var first *started
	for number := range maxStarted {
		window.await(t.Context())
		message := window.start(at(number))
		if number == 0 {
			first = message
		} else {
			window.finish(message)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if window.await(ctx); ctx.Err() == nil {
		t.Fatal("it did not wait")
	}
	returned := make(chan struct{})
	go func() {
		window.await(t.Context())
		close(returned)
	}()
	window.finish(first)
	select {
	case <-returned:
	case <-time.After(20 * time.Second):
		t.Fatal("it still waits")
	}
}
