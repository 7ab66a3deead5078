//go:build linux

package cmd_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// savesOf returns how often a state was saved, and the offset that was saved last.
func savesOf(t *testing.T, state string) (saves, offset int) {
	t.Helper()
	text, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line) // mbus consumer save N offset N log ...
		if number, _ := strconv.Atoi(words[3]); number > saves {
			saves = number
			offset, _ = strconv.Atoi(words[5])
		}
	}
	return saves, offset
}

// A line comes out at once, not at the next look at the log, which is up to 200 ms later.
func TestConsumerPush(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "start")
	consumer := startConsumer(t, "-log", store.log)
	text := "start\n"
	consumer.has(text)
	var delays samples
	for i := range 20 {
		pause(20 * time.Millisecond) // so that the consumer waits again
		begin := time.Now()
		store.add(fmt.Sprint(i))
		text += fmt.Sprint(i, "\n")
		for consumer.Stdout.String() != text {
			if time.Since(begin) > bustest.Patience {
				t.Fatalf("wrote %q, want %q", consumer.Stdout, text)
			}
			pause(time.Millisecond)
		}
		delays = append(delays, time.Since(begin).Seconds()*1000)
	}
	consumer.stop()
	if median := delays.quantile(0.5); median > 30 {
		t.Errorf("the median is %.1f ms", median)
	}
}

// Without a command, the position is saved within a second, and not after each message.
func TestConsumerSavesEachSecond(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "start")
	begin := time.Now()
	consumer := startConsumer(t, store.with()...)
	text := "start\n"
	consumer.has(text)
	for range 50 {
		store.add("x")
		text += "x\n"
		consumer.has(text)
	}
	last := time.Now()
	info, err := os.Stat(store.log)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Until(t, "the last position", func() bool {
		_, offset := savesOf(t, store.state)
		return offset == int(info.Size())
	})
	if took := time.Since(last); took > 2*time.Second {
		t.Errorf("it was saved after %s", took)
	}
	most := 4 + int(time.Since(begin)/(800*time.Millisecond)) // a new state counts as two
	if saves, _ := savesOf(t, store.state); saves > most {
		t.Errorf("it was saved %d times, want at most %d", saves, most)
	}
	consumer.stop()
}
