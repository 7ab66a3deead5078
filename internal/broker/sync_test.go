//go:build unix

package broker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/osfile"
)

// receive receives a value from channel, or fails the test after Patience.
func receive[T any](t *testing.T, channel <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-channel:
	case <-time.After(bustest.Patience):
		t.Fatalf("received nothing within %s", bustest.Patience)
	}
	return value
}

// hasMessage reports whether data, which is lines of a log, has a message.
func hasMessage(data []byte) bool {
	return strings.Contains(string(data), "Received")
}

// A sync that fails is final. The broker sends no reply, and ends with the reason. It reports
// nothing on standard error, because the command does.
func TestFailedSync(t *testing.T) {
	stored := newStored(t, func(config *BrokerConfig) { config.Interval, config.Sync = 0, true })
	stored.store.observe = func(_ string, data []byte, _ int64) {
		if hasMessage(data) {
			stored.store.file.Close()
		}
	}
	go func() { stored.ended <- stored.ProducerListen() }()
	connection := stored.Dial()
	connection.End(bustest.Payload("t", "1", "2"))
	if answer, err := io.ReadAll(connection); err != nil || len(answer) > 0 {
		t.Errorf("the answer is %q, error %v", answer, err)
	}
	err := receive(t, stored.ended)
	const words = "messages not written: 2: "
	if !errors.Is(err, osfile.ErrNotOnDisk) || !strings.HasPrefix(err.Error(), words) {
		t.Errorf("ProducerListen returns %v", err)
	}
	if report := stored.stderr.String(); report != "" {
		t.Errorf("standard error has %q", report)
	}
}

// A failed sync of the old file is final too, after a rotation in the middle of a drain.
func TestFailedSyncOfAnOldFile(t *testing.T) {
	stored := newStored(t, func(config *BrokerConfig) { config.Sync = true })
	stored.store.observe = func(_ string, data []byte, _ int64) {
		if hasMessage(data) {
			rename(t, stored.path, stored.path+".1")
			stored.store.file.Close()
		}
	}
	stored.queue(strings.Repeat("x", gatherSize), "next")
	for range 2 {
		if err := stored.Drain(); !errors.Is(err, osfile.ErrNotOnDisk) {
			t.Errorf("Drain returns %v", err)
		}
		if unwritten(stored.Broker) != 2 {
			t.Errorf("%d messages of 2 count as queued", unwritten(stored.Broker))
		}
	}
}

// A drain is synced once, and one of more than 8 MiB once for each 8 MiB. Without Sync
// there is no sync.
func TestSyncsPerDrain(t *testing.T) {
	for _, synced := range []bool{true, false} {
		stored := newStored(t, func(config *BrokerConfig) { config.Sync = synced })
		syncs := 0
		stored.store.observe = func(change string, _ []byte, _ int64) {
			if strings.HasPrefix(change, "sync") {
				syncs++
			}
		}
		for size, want := range map[int]int{100: 1, settleBytes / 400: 2} {
			syncs = 0
			stored.queue(slices.Repeat([]string{strings.Repeat("x", size)}, 600)...)
			stored.must(stored.Drain())
			if !synced {
				want = 0
			}
			if syncs != want {
				t.Errorf("Sync %v: 600 messages of %d bytes take %d syncs, want %d",
					synced, size, syncs, want)
			}
		}
	}
}

// A message that was written before an error is synced, and counts as written.
func TestSyncAfterAWriteError(t *testing.T) {
	stored := newStored(t, func(config *BrokerConfig) { config.Sync = true })
	disk := &limited{stored.store, 1000}
	stored.drainer.log.writer = disk
	stored.queue("fits", strings.Repeat("x", gatherSize), "a message that is not taken yet")
	if err := stored.Drain(); !errors.Is(err, syscall.ENOSPC) || unwritten(stored.Broker) != 2 {
		t.Errorf("Drain returns %v, and %d messages count as queued", err, unwritten(stored.Broker))
	}
	disk.room = endless
	stored.must(stored.Drain())
}

// slowSync makes each sync of messages send to begun, and last until the test sends to done.
func (s *stored) slowSync() (begun <-chan struct{}, done chan<- struct{}) {
	entered, leave := make(chan struct{}, 1), make(chan struct{}, 1)
	unsynced := false
	s.store.observe = func(change string, data []byte, _ int64) {
		if unsynced = unsynced || hasMessage(data); unsynced && change == "sync" {
			unsynced = false
			entered <- struct{}{}
			<-leave
		}
	}
	return entered, leave
}

// At interval 0 the reply comes after the sync.
func TestReplyAfterSync(t *testing.T) {
	stored := newStored(t, func(config *BrokerConfig) { config.Interval, config.Sync = 0, true })
	begun, done := stored.slowSync()
	stored.serve()
	connection := stored.Dial()
	connection.End(bustest.Payload("t", "1"))
	receive(t, begun)
	connection.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // enough for a reply
	if count, err := connection.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes of a reply before the end of the sync, error %v", count, err)
	}
	connection.SetReadDeadline(time.Now().Add(bustest.Patience))
	done <- struct{}{}
	if reply := connection.Reply(); reply.Accepted != 1 {
		t.Errorf("the reply is %+v", *reply)
	}
}

// One sync answers many producers. No reply comes before its message is in the log.
func TestOneSyncForManyProducers(t *testing.T) {
	const producers, each = 32, 20
	stored := newStored(t, func(config *BrokerConfig) { config.Interval, config.Sync = 0, true })
	syncs := 0
	stored.store.observe = func(change string, _ []byte, _ int64) {
		if change == "sync" {
			syncs++
			time.Sleep(time.Millisecond) // as a disk takes
		}
	}
	stored.serve()
	var group sync.WaitGroup
	for i := range producers {
		group.Go(func() {
			for j := range each {
				text := fmt.Sprintf("%d.%d", i, j)
				reply, err := stored.Post(bustest.Payload("t", text))
				if err != nil || reply.Accepted != 1 {
					t.Errorf("%s: %+v, error %v", text, reply, err)
				} else if !strings.Contains(file(stored.path), "'"+text+"'\n") {
					t.Errorf("%s was acknowledged and is not in the log", text)
				}
			}
		})
	}
	group.Wait()
	stored.Close()
	if got := len(stored.Received("t")); got != producers*each || syncs > got/2 {
		t.Errorf("%d messages of %d took %d syncs", got, producers*each, syncs)
	}
	t.Logf("figure: %d messages of %d producers took %d syncs", producers*each, producers, syncs)
}

// The broker accepts messages during a sync. Those that are being synced still count as queued.
func TestSlowSync(t *testing.T) {
	stored := newStored(t, func(config *BrokerConfig) {
		config.Interval, config.Sync, config.Timeout = 10*time.Millisecond, true, time.Hour
	})
	begun, done := stored.slowSync()
	stored.serve()
	stored.Accept(bustest.Payload("t", "1"), 1)
	receive(t, begun)
	stored.Accept(bustest.Payload("t", "2", "3"), 2)
	expect := func(queued int, want ...string) {
		t.Helper()
		got, count := stored.Received("t"), unwritten(stored.Broker)
		if !slices.Equal(got, want) || count != queued {
			t.Errorf("the log has %q, and %d messages count as queued", got, count)
		}
	}
	expect(3, "1")
	done <- struct{}{}
	receive(t, begun)
	expect(2, "1", "2", "3")
	done <- struct{}{}
	bustest.Until(t, "an empty queue", func() bool { return unwritten(stored.Broker) == 0 })
}

// A broker that stops writes all messages to a slow disk, as long as each write and each sync
// ends within the time-out.
func TestStopWithASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stored := newStored(t, func(config *BrokerConfig) {
			config.Sync, config.Timeout = true, 3*time.Second
		})
		stored.store.observe = func(change string, _ []byte, _ int64) {
			if change != "open" {
				time.Sleep(2 * time.Second)
			}
		}
		stored.queue("1", strings.Repeat("2", settleBytes), "3")
		rename(t, stored.path, stored.path+".1")
		loopEnded := make(chan struct{})
		close(loopEnded)
		result := make(chan error, 1)
		go func() { result <- stored.drainer.tickLoop(loopEnded) }()
		if err := stored.drainer.awaitEnd(result); err != nil {
			t.Error(err)
			<-result
		}
		if got := stored.Received("t"); len(got) != 3 {
			t.Errorf("%d messages of 3 are in the log", len(got))
		}
	})
}
