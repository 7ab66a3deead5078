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
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	inHand := bus.Dial()
	inHand.Put(bustest.Payload("t", "in hand")[:15])
	var waiting []*bustest.Conn
	for i := range 50 {
		connection := bus.Dial()
		connection.End(bustest.Payload("t", fmt.Sprint(i)))
		waiting = append(waiting, connection)
	}
	closed := make(chan struct{})
	go func() {
		bus.Close()
		close(closed)
	}()
	<-bus.stopping.Done()
	inHand.End(bustest.Payload("t", "in hand")[15:])
	for _, connection := range append(waiting, inHand) {
		if reply := connection.Reply(); *reply != (apiv1.Reply{Accepted: 1}) {
			t.Errorf("got %+v", *reply)
		}
	}
	<-closed
	want := append([]string{"in hand"}, bustest.Numbers(0, 49)...)
	if got := bus.Received("t"); !slices.Equal(got, want) {
		t.Errorf("logged %q", got)
	}
	if _, err := net.Dial("tcp", bus.Address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed broker answers %v", err)
	}
}

// A broker that stops refuses the connections that it can't serve in time, with that reason.
func TestCloseRefusesWhomItCantServe(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Minute })
	inHand, silent, waiting := bus.Dial(), bus.Dial(), bus.Dial()
	message := bustest.Payload("t", "in hand")
	inHand.Put(message[:1])
	silent.Put("\x82")
	waiting.End(bustest.Payload("t", "too late"))
	bustest.Until(t, "the broker to serve inHand", func() bool {
		// While the broker serves it, a probe gets no answer.
		probe := bus.Dial()
		defer probe.Close()
		probe.CloseWrite()
		probe.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := probe.Read(make([]byte, 1))
		return err != nil
	})
	closed := make(chan struct{})
	go func() {
		bus.Close()
		close(closed)
	}()
	<-bus.stopping.Done()
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
	if got := bus.Received("t"); !slices.Equal(got, []string{"in hand"}) {
		t.Errorf("logged %q", got)
	}
}

// A broker that stops serves the connections that it has, and accepts no new ones.
func TestStopRefusesConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can keep connections out")
	}
	bus := start(t, nil)
	inHand := bus.Dial()
	inHand.Put("\x90")
	bus.stopAccepting()
	connection, err := net.DialTimeout("tcp", bus.Address, 100*time.Millisecond)
	if err == nil {
		connection.Close()
		t.Error("a new connection was opened")
	}
	inHand.End("")
	inHand.Reply()
}

// A silent client can't keep a broker from closing.
func TestCloseWithASilentClient(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Timeout = time.Second })
	bus.Accept(bustest.Payload("t", "1"), 1)
	inHand, waiting := bus.Dial(), bus.Dial()
	inHand.Put("\x92")
	waiting.Put("\x92")
	begin := time.Now()
	closed := make(chan time.Duration)
	go func() {
		bus.Close()
		bus.Close() // a second time does no harm
		closed <- time.Since(begin)
	}()
	for _, connection := range []*bustest.Conn{inHand, waiting} {
		connection.Reply()
		connection.Close()
	}
	if took := <-closed; took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
	bus.Expect("Received new message from topic 't': '1'")
}

// A broker can be closed before it serves. A closed broker serves nobody.
func TestCloseBeforeServing(t *testing.T) {
	bus := listen(t, nil)
	bus.Close()
	if err := bus.ProducerListen(); err != nil {
		t.Error(err)
	}
	bus.Close()
}
