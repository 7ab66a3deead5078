package broker

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/encoder"
)

// BenchmarkAccept delivers payloads, each over a connection of its own, to a broker
// whose log is discarded, and to a floor that only reads and answers.
func BenchmarkAccept(b *testing.B) {
	for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
		for _, batch := range []int{1, 10, 1000} {
			if size*batch > 16<<20 {
				continue // more than a payload can have
			}
			messages := make([]*apiv1.Message, batch)
			for i := range messages {
				messages[i] = &apiv1.Message{Topic: "topic", Data: bytes.Repeat([]byte("x"), size)}
			}
			payload, err := encoder.NewMsgpackEncoder().Encode(messages)
			if err != nil {
				b.Fatal(err)
			}
			name := fmt.Sprintf("size=%d/batch=%d", size, batch)
			b.Run("broker/"+name, func(b *testing.B) {
				config := DefaultConfig()
				config.ProducerPort, config.Log = "0", io.Discard
				bus, err := New(config)
				if err != nil {
					b.Fatal(err)
				}
				ended := make(chan error)
				go func() { ended <- bus.ProducerListen() }()
				deliver(b, bus.Addr().String(), payload, batch)
				bus.Close()
				if err := <-ended; err != nil {
					b.Error(err)
				}
			})
			b.Run("floor/"+name, func(b *testing.B) {
				listening := net.ListenConfig{KeepAlive: -1} // as the broker listens
				listening.SetMultipathTCP(false)
				listener, err := listening.Listen(b.Context(), "tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					buffer := make([]byte, 64<<10)
					for {
						connection, err := listener.Accept()
						if err != nil {
							return
						}
						for err == nil {
							_, err = connection.Read(buffer)
						}
						connection.Write([]byte("\x82\xa8Accepted\x01\xa5Error\xa0"))
						connection.Close()
					}
				}()
				deliver(b, listener.Addr().String(), payload, batch)
				listener.Close()
			})
		}
	}
}

// deliver sends payload, of count messages, again and again, and awaits each answer.
func deliver(b *testing.B, address string, payload []byte, count int) {
	b.Helper()
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		connection.Write(payload)
		connection.(*net.TCPConn).CloseWrite()
		if answer, err := io.ReadAll(connection); err != nil || len(answer) == 0 {
			b.Fatalf("the answer is %q, error %v", answer, err)
		}
		connection.Close()
	}
	b.ReportMetric(float64(b.N)*float64(count)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkDrain drains what was queued in payloads of 1,000 into nothing.
func BenchmarkDrain(b *testing.B) {
	for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			config := DefaultConfig()
			config.ProducerPort, config.Log = "0", io.Discard
			bus, err := New(config)
			if err != nil {
				b.Fatal(err)
			}
			defer bus.Close()
			message := &apiv1.Message{Topic: "topic", Data: bytes.Repeat([]byte("x"), size)}
			const count = 1000
			b.ReportAllocs()
			b.SetBytes(int64(size * count))
			for b.Loop() {
				for range count {
					bus.HandleNewMessage(message)
				}
				bus.announceLocked()
				if err := bus.Drain(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
