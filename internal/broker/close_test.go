package broker

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// Close serves the current connection and those in the backlog.
func TestCloseServesThoseWhoWait(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	inHand := broker.Dial()
	inHand.Put(bustest.Payload("t", "in hand")[:15])
	var waiting []*bustest.Conn
	for i := range 50 {
		connection := broker.Dial()
		connection.End(bustest.Payload("t", fmt.Sprint(i)))
		waiting = append(waiting, connection)
	}
	closed := make(chan struct{})
	go func() {
		broker.Close()
		close(closed)
	}()
	<-broker.stopping.Done()
	inHand.End(bustest.Payload("t", "in hand")[15:])
	for _, connection := range append(waiting, inHand) {
		if reply := connection.Reply(); *reply != (apiv1.Reply{Accepted: 1}) {
			t.Errorf("got %+v", *reply)
		}
	}
	<-closed
	want := append([]string{"in hand"}, bustest.Numbers(0, 49)...)
	if got := broker.Received("t"); !slices.Equal(got, want) {
		t.Errorf("logged %q", got)
	}
	if _, err := net.Dial("tcp", broker.Address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed broker answers %v", err)
	}
}

// A broker that stops refuses the connections that it can't serve in time, with that reason.
func TestCloseRefusesWhomItCantServe(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	inHand, silent, waiting := broker.Dial(), broker.Dial(), broker.Dial()
	message := bustest.Payload("t", "in hand")
	inHand.Put(message[:1])
	silent.Put("\x82")
	waiting.End(bustest.Payload("t", "too late"))
	bustest.Until(t, "the broker to serve inHand", func() bool {
		// While the broker serves it, a probe gets no answer.
		probe := broker.Dial()
		defer probe.Close()
		probe.CloseWrite()
		probe.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := probe.Read(make([]byte, 1))
		return err != nil
	})
	closed := make(chan struct{})
	go func() {
		broker.Close()
		close(closed)
	}()
	<-broker.stopping.Done()
	inHand.End(message[1:])
	if reply := inHand.Reply(); *reply != (apiv1.Reply{Accepted: 1}) {
		t.Errorf("in hand: %+v", *reply)
	}
	for _, connection := range []*bustest.Conn{silent, waiting} {
		if reply := connection.Reply(); *reply != (apiv1.Reply{Error: "the broker is stopping"}) {
			t.Errorf("got %+v", *reply)
		}
	}
	<-closed
	if got := broker.Received("t"); !slices.Equal(got, []string{"in hand"}) {
		t.Errorf("logged %q", got)
	}
}

// A broker that stops serves the connections that it has, and accepts no new ones.
func TestStopRefusesConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can keep connections out")
	}
	broker := start(t, nil)
	inHand := broker.Dial()
	inHand.Put("\x90")
	broker.stopAccepting()
	connection, err := net.DialTimeout("tcp", broker.Address, 100*time.Millisecond)
	if err == nil {
		connection.Close()
		t.Error("a new connection was opened")
	}
	inHand.End("")
	inHand.Reply()
}

// A silent client can't keep a broker from closing.
func TestCloseWithASilentClient(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Timeout = time.Second })
	broker.Accept(bustest.Payload("t", "1"), 1)
	inHand, waiting := broker.Dial(), broker.Dial()
	inHand.Put("\x92")
	waiting.Put("\x92")
	begin := time.Now()
	closed := make(chan time.Duration)
	go func() {
		broker.Close()
		broker.Close() // a second time does no harm
		closed <- time.Since(begin)
	}()
	for _, connection := range []*bustest.Conn{inHand, waiting} {
		connection.Reply()
		connection.Close()
	}
	if took := <-closed; took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
	broker.Expect("Received new message from topic 't': '1'")
}

// A broker can be closed before it serves. A closed broker serves nobody.
func TestCloseBeforeServing(t *testing.T) {
	broker := listen(t, nil)
	broker.Close()
	if err := broker.ProducerListen(); err != nil {
		t.Error(err)
	}
	broker.Close()
}
