package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// Notices are in the log within 100 ms, without a tick.
func TestNoticesComeAtOnce(t *testing.T) {
	broker := start(t, nil)
	tries := 0
	// One try in time is enough: a busy machine may delay some.
	bustest.Until(t, "notices within 100 ms", func() bool {
		tries++
		topic := fmt.Sprint("topic ", tries)
		begin := time.Now()
		broker.Accept(bustest.Payload(topic, "1", "2"), 2)
		broker.Expect("creating topic " + topic)
		broker.Expect("2 new messages dispatched on topic " + topic)
		broker.Refuse("\xc0", "message 1: is nil, must be a map of Topic and Data")
		return time.Since(begin) < 100*time.Millisecond
	})
	if got := bustest.Messages(t, broker.Log.String()); got != nil {
		t.Errorf("%d messages were drained without a tick", len(got))
	}
}

// Notices are in the log within 100 ms even while others are added.
func TestNoticesDoNotWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := listen(t, nil)
		defer broker.Close()
		end := broker.startTicker(t)
		const pause, bound = time.Millisecond, 100 * time.Millisecond
		for count := 1; count <= 500; count++ {
			broker.notify("a notice")
			synctest.Wait()
			got := len(bustest.Lines(t, broker.Log.String()))
			if overdue := count - int(bound/pause); got < overdue {
				t.Errorf("of %d notices %d are in the log, and %d are overdue",
					count, got, overdue-got)
				break
			}
			time.Sleep(pause)
		}
		end()
	})
}

// The ticker goroutine drains at each tick, and only then. It writes notices between the ticks.
func TestTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := listen(t, func(config *BrokerConfig) { config.Interval = 3 * time.Second })
		defer broker.Close()
		end := broker.startTicker(t)
		queue := func(text string) { queueTexts(t, broker.Broker, "t", text) }
		expect := func(notices int, texts ...string) {
			t.Helper()
			synctest.Wait()
			if got := broker.Received("t"); !slices.Equal(got, texts) {
				t.Errorf("drained %q, want %q", got, texts)
			}
			if got := strings.Count(broker.Log.String(), "dispatched on"); got != notices {
				t.Errorf("%d notices, want %d", got, notices)
			}
		}
		queue("1")
		queue("2") // both notices are written together
		time.Sleep(noticeTime - time.Nanosecond)
		expect(0)
		time.Sleep(time.Nanosecond)
		expect(2)
		queue("3")
		time.Sleep(noticeTime)
		expect(3)
		time.Sleep(3*time.Second - 2*noticeTime - time.Nanosecond)
		queue("4")
		expect(3)
		time.Sleep(time.Nanosecond)
		expect(4, "1", "2", "3", "4")
		queue("5")
		time.Sleep(3*time.Second - time.Nanosecond)
		expect(5, "1", "2", "3", "4")
		queue("6")
		end()
		expect(6, "1", "2", "3", "4", "5", "6")
	})
}

// A drain forgets empty topics while too many are known.
func TestTopicsAreForgotten(t *testing.T) {
	broker := listen(t, nil)
	defer broker.Close()
	dispatch := func(first, count int) {
		for i := range count {
			queueTexts(t, broker.Broker, fmt.Sprint(first+i), "")
		}
	}
	drain := func() {
		if err := broker.Drain(); err != nil {
			t.Fatal(err)
		}
	}
	dispatch(0, maxTopics)
	drain()
	if len(broker.topics) != maxTopics {
		t.Fatalf("%d topics are known, want %d", len(broker.topics), maxTopics)
	}
	dispatch(maxTopics, 5)
	if len(broker.topics) != maxTopics+5 {
		t.Fatalf("%d topics are known", len(broker.topics))
	}
	drain()
	if len(broker.topics) != maxTopics {
		t.Fatalf("%d topics are known, want %d", len(broker.topics), maxTopics)
	}
	want := 0
	for name := range broker.topics {
		want += topicBytes(name)
	}
	if broker.used != want {
		t.Errorf("%d bytes count, want %d", broker.used, want)
	}
}

// A topic with a message is never forgotten. A forgotten topic is made again when a message needs
// it.
func TestForgottenTopicIsMadeAgain(t *testing.T) {
	broker := listen(t, nil)
	defer broker.Close()
	queueTexts(t, broker.Broker, "empty", "1")
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	queueTexts(t, broker.Broker, "queued", "2")
	broker.forgetTopics(0)
	if len(broker.topics) != 1 || broker.topics["queued"] == nil {
		t.Errorf("%d topics are left", len(broker.topics))
	}
	queueTexts(t, broker.Broker, "empty", "3")
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(broker.Log.String(), "creating topic empty\n"); got != 2 {
		t.Errorf("the topic was made %d times, want 2", got)
	}
}

// A drain that failed is tried again within a second, whatever the interval.
func TestRetryOfADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log *faulty
		broker := listen(t, func(config *BrokerConfig) {
			log = faultyLog(config, full)
			config.MaxQueued = 3 * gatherSize // room for two messages
		})
		defer broker.Close()
		log.budget.Store(0)
		end := broker.startTicker(t)
		long := strings.Repeat("x", gatherSize) // one write takes one message, so one stays queued
		queueTexts(t, broker.Broker, "t", long, long)
		message := []*apiv1.Message{{Topic: "t", Data: []byte(long)}}
		// This makes the messages due.
		if err := broker.enqueue(message, time.Now(), nil); err == nil {
			t.Error("a third message fits")
		}
		time.Sleep(time.Second / 2) // the notices were tried too
		log.budget.Store(endless)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := broker.Received("t"); len(got) != 2 {
			t.Errorf("after a second the log has %d messages of 2", len(got))
		}
		end()
	})
}

// The count of empty topics is right after each step of their life, so that a drain looks for
// empty topics only where there are some.
func TestEmptyTopicsAreCounted(t *testing.T) {
	broker := listen(t, nil)
	defer broker.Close()
	check := func(when string, want int) {
		t.Helper()
		count := 0
		for _, topic := range broker.topics {
			if topic.Queue.Len() == 0 {
				count++
			}
		}
		if count != want || broker.empty != want {
			t.Errorf("%s: %d topics are empty, %d are counted, want %d",
				when, count, broker.empty, want)
		}
	}
	check("at the start", 0)
	queueTexts(t, broker.Broker, "a", "1", "2")
	queueTexts(t, broker.Broker, "b", "1")
	queueTexts(t, broker.Broker, "a", "3")
	check("with messages", 0)
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	check("after a drain", 2)
	queueTexts(t, broker.Broker, "b", "2")
	check("with a message again", 1)
	broker.forgetTopics(0)
	check("after the empty one was forgotten", 0)
	if len(broker.topics) != 1 {
		t.Errorf("%d topics are known, want 1", len(broker.topics))
	}
}
