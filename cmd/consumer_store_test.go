//go:build unix

package cmd_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// A broker is killed at any moment under load and started again, and its log is rotated. A
// consumer of the log delivers each of its messages once and in order.
func TestConsumerOfKilledBroker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mbus.log")
	subscriber := subscribe(t, "-log", path, "-state", path+".state")
	address := bustest.FreeAddress(t)
	kills := longOrShort(100, 10)
	var files []string // the oldest first
	for kill := range kills {
		broker := startStoreAt(t, address, path, "-interval", "0")
		finish := broker.load(2, 20)
		pause(30 * time.Millisecond)
		rotated := fmt.Sprintf("%s-%08d", path, kill)
		if err := os.Rename(path, rotated); err != nil {
			t.Fatal(err)
		}
		files = append(files, rotated)
		pause(1500 * time.Millisecond / time.Duration(1+rand.IntN(50)))
		broker.signal(syscall.SIGKILL)
		broker.wait()
		finish()
	}
	broker := startStoreAt(t, address, path, "-interval", "0") // cuts a torn end off
	if status, stderr := broker.produce("t", "last"); status != 0 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	broker.stop()

	var want strings.Builder
	for _, name := range append(files, path) {
		for _, message := range bustest.Messages(t, file(name).String()) {
			fmt.Fprintln(&want, message.Data) // it has no escapes
		}
	}
	bustest.Until(t, "the last message", func() bool {
		return strings.HasSuffix(subscriber.stdout.String(), "last\n")
	})
	subscriber.signal(syscall.SIGTERM)
	if status := subscriber.wait(); status != 0 {
		t.Errorf("status %d: %s", status, subscriber.stderr)
	}
	got := subscriber.stdout.String()
	if got != want.String() {
		t.Errorf("%d messages were delivered, want %d, or in another order",
			strings.Count(got, "\n"), strings.Count(want.String(), "\n"))
	}
	t.Logf("figure: a broker killed and its log rotated %d times: %d messages of the log, "+
		"each delivered once, in order; %d torn ends passed",
		kills, strings.Count(got, "\n"), strings.Count(subscriber.stderr.String(), "\n"))
}

// pause sleeps for a random time of up to most, to choose a moment for a kill.
func pause(most time.Duration) {
	time.Sleep(time.Duration(rand.Int64N(int64(most))))
}
