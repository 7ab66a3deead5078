package broker

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// quiet is an interval without a tick during a test, so that the test decides when to drain.
const quiet = time.Hour

// testBroker is a broker under test, on a free port, and a client of it.
type testBroker struct {
	*Broker
	*bustest.Client
	ended chan error // receives the error of ProducerListen
}

// listen returns a broker that does not serve yet. It has the default configuration but for
// the interval, which is quiet. set may change the configuration. When the test ends, the log
// must consist of whole lines.
func listen(t *testing.T, set func(*BrokerConfig)) *testBroker {
	t.Helper()
	config := DefaultConfig()
	config.ProducerPort, config.Interval, config.Log = "0", quiet, &bustest.Record{}
	if set != nil {
		set(config)
	}
	broker, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	client := bustest.NewClient(t, broker.Addr().String(), config.Log.(fmt.Stringer))
	t.Cleanup(func() { bustest.Lines(t, client.Log.String()) })
	return &testBroker{Broker: broker, Client: client, ended: make(chan error, 1)}
}

// queueTexts queues a payload of one message for each of texts on topic, as the loop does.
func queueTexts(t testing.TB, broker *Broker, topic string, texts ...string) {
	t.Helper()
	var messages []*apiv1.Message
	for _, text := range texts {
		messages = append(messages, &apiv1.Message{Topic: topic, Data: []byte(text)})
	}
	if err := broker.enqueue(messages, time.Now(), nil); err != nil {
		t.Fatal(err)
	}
}

// unwritten returns how many messages count as queued.
func unwritten(broker *Broker) int {
	broker.mutex.Lock()
	defer broker.mutex.Unlock()
	return broker.accepted - broker.written
}

// accepted returns how many messages were ever queued.
func accepted(broker *Broker) int {
	broker.mutex.Lock()
	defer broker.mutex.Unlock()
	return broker.accepted
}

// serve starts ProducerListen.
func (b *testBroker) serve() {
	go func() { b.ended <- b.ProducerListen() }()
}

// startTicker starts the ticker goroutine without the loop. end ends it, and fails the test unless
// all messages are written.
func (b *testBroker) startTicker(t *testing.T) (end func()) {
	loopEnded := make(chan struct{})
	go func() { b.ended <- b.drainer.tickLoop(loopEnded) }()
	return func() {
		t.Helper()
		close(loopEnded)
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	}
}

// start returns a broker that serves until the test ends. Then all its messages must be written,
// and all its goroutines must have ended.
func start(t *testing.T, set func(*BrokerConfig)) *testBroker {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	broker := listen(t, set)
	broker.serve()
	t.Cleanup(func() {
		broker.Close()
		if err := <-broker.ended; err != nil {
			t.Errorf("ProducerListen: %v", err)
		}
		bustest.Until(t, "the end of all its goroutines", func() bool {
			return runtime.NumGoroutine() <= goroutines
		})
	})
	broker.Expect("Broker: listening on " + broker.Address)
	return broker
}
