package broker

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// BenchmarkAccept delivers payloads of batch messages with size bytes of data on one topic, each
// over a new connection, and waits for each reply. The broker discards its log and drains
// every 3 seconds.
//
// The floor is bustest.ServeFloor: it reads the same payloads over the same kind of
// connection, but decodes and queues nothing. Producer, broker and floor share this process.
// TestRatios in mbus/cmd has a process for each, and targets. To run it:
//
//	go test -run '^$' -bench Accept ./internal/broker
func BenchmarkAccept(b *testing.B) {
	for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
		for _, batch := range []int{1, 10, 1000} {
			if size*batch > 16<<20 {
				continue // more than a payload can have
			}
			data := slices.Repeat([]string{strings.Repeat("x", size)}, batch)
			payload := []byte(bustest.Payload("topic", data...))
			name := fmt.Sprintf("size=%d/batch=%d", size, batch)
			b.Run("broker/"+name, func(b *testing.B) {
				broker := newDiscarding(b)
				ended := make(chan error)
				go func() { ended <- broker.ProducerListen() }()
				deliver(b, broker.Addr().String(), payload, batch)
				broker.Close()
				if err := <-ended; err != nil {
					b.Error(err)
				}
			})
			b.Run("floor/"+name, func(b *testing.B) {
				listener, err := bustest.ListenFloor()
				if err != nil {
					b.Fatal(err)
				}
				defer listener.Close()
				go bustest.ServeFloor(listener)
				deliver(b, listener.Addr().String(), payload, batch)
			})
		}
	}
}

// newDiscarding returns a broker whose log is discarded.
func newDiscarding(b *testing.B) *Broker {
	b.Helper()
	config := DefaultConfig()
	config.ProducerPort, config.Log = "0", io.Discard
	broker, err := New(config)
	if err != nil {
		b.Fatal(err)
	}
	return broker
}

// deliver sends payload, which has count messages, again and again, and waits for each reply.
func deliver(b *testing.B, address string, payload []byte, count int) {
	b.Helper()
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		bustest.Deliver(b, address, payload)
	}
	b.ReportMetric(float64(b.N)*float64(count)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkDrain queues 1,000 messages with size bytes of data on one topic, and drains them
// into a log that is discarded. It has no floor, but TestRatios in mbus/cmd has one, which formats
// as many lines with the log package. To run it:
//
//	go test -run '^$' -bench Drain ./internal/broker
func BenchmarkDrain(b *testing.B) {
	for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			broker := newDiscarding(b)
			defer broker.Close()
			message := &apiv1.Message{Topic: "topic", Data: bytes.Repeat([]byte("x"), size)}
			const count = 1000
			messages := slices.Repeat([]*apiv1.Message{message}, count)
			b.ReportAllocs()
			b.SetBytes(int64(size * count))
			for b.Loop() {
				err := broker.enqueue(messages, time.Now(), nil)
				if err := cmp.Or(err, broker.Drain()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
