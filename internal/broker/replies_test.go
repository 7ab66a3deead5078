package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// gaveUpLine is the line of the log about a reply that was not sent, with %s for the producer.
const gaveUpLine = "no reply to %s: its messages are queued, but were not written in time"

// startStuck starts a broker at interval 0 whose log takes nothing before released is closed. set
// may change the broker.
func startStuck(t *testing.T, set func(*testBroker)) (broker *testBroker, released chan struct{}) {
	t.Helper()
	released = make(chan struct{})
	broker = listen(t, func(config *BrokerConfig) {
		config.Interval, config.Timeout = 0, time.Minute
		config.Log = &stuck{released: released}
	})
	if set != nil {
		set(broker)
	}
	broker.serve()
	return broker, released
}

// sendAll sends count payloads of one message, each on a connection of its own, and returns the
// connections. The broker has queued their messages.
func (b *testBroker) sendAll(t *testing.T, count int) []*bustest.Conn {
	t.Helper()
	var connections []*bustest.Conn
	before := accepted(b.Broker)
	for i := range count {
		connection := b.Dial()
		connection.End(bustest.Payload("t", fmt.Sprint(i)))
		connections = append(connections, connection)
	}
	b.awaitAccepted(t, before+count)
	return connections
}

// awaitAccepted waits until the broker has accepted count messages.
func (b *testBroker) awaitAccepted(t *testing.T, count int) {
	t.Helper()
	bustest.Until(t, fmt.Sprint(count, " accepted messages"), func() bool {
		return accepted(b.Broker) >= count
	})
}

// expectNoReplies fails the test unless all connections end without a byte.
func expectNoReplies(t *testing.T, connections []*bustest.Conn) {
	t.Helper()
	for _, connection := range connections {
		if answer, err := io.ReadAll(connection); err != nil || len(answer) > 0 {
			t.Errorf("the answer is %q, error %v", answer, err)
		}
	}
}

// While a write blocks, the connection of each reply that waits is closed at its own deadline. The
// messages stay queued.
func TestWaitingRepliesGiveUp(t *testing.T) {
	broker, released := startStuck(t, func(broker *testBroker) {
		broker.config.Timeout = time.Second
	})
	begin := time.Now()
	connections := broker.sendAll(t, 20)
	expectNoReplies(t, connections)
	if took := time.Since(begin); took < time.Second || took > 10*time.Second {
		t.Errorf("20 connections were closed after %s", took)
	}
	close(released)
	for _, connection := range connections {
		broker.Expect(fmt.Sprintf(gaveUpLine, connection.LocalAddr()))
	}
	broker.Close()
	if got := broker.Received("t"); !slices.Equal(got, bustest.Numbers(0, 19)) {
		t.Errorf("the log has %q", got)
	}
}

// The broker accepts no connection while there is no place for its reply. When a reply is sent, it
// accepts the next.
func TestPlacesForReplies(t *testing.T) {
	const places = 5
	broker, released := startStuck(t, func(broker *testBroker) { broker.places = places })
	connections := broker.sendAll(t, places)
	for i := range 10 {
		connection := broker.Dial()
		connection.End(bustest.Payload("t", fmt.Sprint(places+i)))
		connections = append(connections, connection)
	}
	connections[places].SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	count, err := connections[places].Read(make([]byte, 1))
	if got := accepted(broker.Broker); !errors.Is(err, os.ErrDeadlineExceeded) || got != places {
		t.Errorf("%d messages are accepted, %d bytes of a reply, error %v", got, count, err)
	}
	connections[places].SetReadDeadline(time.Now().Add(bustest.Patience))
	close(released)
	for _, connection := range connections {
		if reply := connection.Reply(); *reply != (apiv1.Reply{Accepted: 1}) {
			t.Errorf("the reply is %+v", *reply)
		}
	}
	broker.Close()
	if got := broker.Received("t"); len(got) != places+10 {
		t.Errorf("the log has %d messages", len(got))
	}
}

// A producer that hangs up while its reply waits harms nobody, and leaves nothing behind.
func TestWaitingProducerHangsUp(t *testing.T) {
	broker, released := startStuck(t, nil)
	connections := broker.sendAll(t, 9)
	for i, connection := range connections {
		if i%3 == 0 {
			connection.Close()
		} else if i%3 == 1 {
			connection.SetLinger(0) // Close sends a reset
			connection.Close()
		}
	}
	close(released)
	for i, connection := range connections {
		if i%3 == 2 && connection.Reply().Accepted != 1 {
			t.Errorf("message %d was not accepted", i)
		}
	}
	broker.Accept(bustest.Payload("t", "9"), 1)
	bustest.Until(t, "the places of those that hung up", func() bool {
		broker.mutex.Lock()
		defer broker.mutex.Unlock()
		return len(broker.replies) == 0
	})
	broker.Close()
	if got := broker.Received("t"); !slices.Equal(got, bustest.Numbers(0, 9)) {
		t.Errorf("the log has %q", got)
	}
}

// A broker that stops answers all producers that wait before it reports that it has stopped.
func TestStopAnswersThoseThatWait(t *testing.T) {
	broker, released := startStuck(t, nil)
	connections := broker.sendAll(t, 20)
	closed := make(chan struct{})
	go func() {
		broker.Stop("test")
		close(closed)
	}()
	<-broker.stopping.Done()
	close(released)
	broker.endsWith(t, connections, closed)
	log := broker.Log.String()
	if !strings.HasSuffix(log, " Broker: stopped\n") || len(broker.Received("t")) != 20 {
		t.Errorf("the log is\n%s", log)
	}
}

// endsWith fails the test unless the broker accepts the payloads of these connections, is closed,
// and then ends without an error.
func (b *testBroker) endsWith(t *testing.T, connections []*bustest.Conn, closed <-chan struct{}) {
	t.Helper()
	for _, connection := range connections {
		if reply := connection.Reply(); reply.Accepted != 1 {
			t.Errorf("the reply is %+v", *reply)
		}
	}
	<-closed
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
}

// A broker that stops without a place for a reply, because its log is stuck, refuses further
// connections after a second. It does not wait until a reply's time is over.
func TestStopWithoutPlacesForReplies(t *testing.T) {
	const places = 3
	broker, released := startStuck(t, func(broker *testBroker) { broker.places = places })
	connections := broker.sendAll(t, places)
	late := broker.Dial()
	late.End(bustest.Payload("t", "late"))
	closed := make(chan struct{})
	go func() {
		broker.Close()
		close(closed)
	}()
	if reply := late.Reply(); *reply != (apiv1.Reply{Error: "the broker is stopping"}) {
		t.Errorf("the reply is %+v", *reply)
	}
	close(released)
	broker.endsWith(t, connections, closed)
}

// If the ticker goroutine ends while the loop queues a payload, the payload is refused, or its
// connection is closed at once. No reply is left to wait for a write that never comes.
func TestLogGoesWhileAPayloadIsQueued(t *testing.T) {
	message := []*apiv1.Message{{Topic: "t"}}
	for range 2000 {
		broker := &Broker{queues: newQueues(1 << 20)}
		producer, connection := net.Pipe()
		go broker.end()
		deadline := time.Now().Add(time.Minute)
		err := broker.enqueue(message, deadline, &waitingReply{connection: connection})
		if err != nil && err.Error() != apiv1.LogGone {
			t.Fatal(err)
		}
		if err != nil {
			continue
		}
		producer.SetReadDeadline(time.Now().Add(bustest.Patience))
		if _, err := producer.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("reading the reply returns %v", err)
		}
	}
}

// vanishing is a log whose Write blocks until released is closed. Then the log is gone.
type vanishing struct {
	bustest.Record
	released chan struct{}
}

func (v *vanishing) Write([]byte) (int, error) {
	<-v.released
	return 0, syscall.EPIPE
}

// When the log is gone, the connections of the replies that wait are closed at once.
func TestLogGoesWhileRepliesWait(t *testing.T) {
	log := &vanishing{released: make(chan struct{})}
	broker := listen(t, func(config *BrokerConfig) {
		config.Interval, config.Timeout, config.Log = 0, time.Minute, log
	})
	broker.serve()
	connections := broker.sendAll(t, 20)
	close(log.released)
	expectNoReplies(t, connections)
	if err := <-broker.ended; !errors.Is(err, syscall.EPIPE) {
		t.Errorf("ProducerListen returns %v", err)
	}
	broker.Close()
}
