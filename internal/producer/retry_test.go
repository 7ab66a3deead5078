package producer_test

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

// What was not queued is sent again for -retry, unless the broker would refuse it again.
func TestRetry(t *testing.T) {
	for reason, again := range map[string]bool{
		apiv1.QueueFull: true, apiv1.Stopping: true, apiv1.LogGone: true,
		apiv1.NoEnd + "5s": true, apiv1.Broke + "why": true,
		apiv1.TooLarge + "why": false, "message 1: why": false, "queue is fuller": false,
	} {
		server := startServer(t, func(number, _ int) string {
			if number < 4 {
				return reason
			}
			return ""
		})
		err := retrying(t, server.address, time.Hour).Send(t.Context(), message)
		want := 1
		if again {
			want = 4
		}
		if got := len(server.received()); got != want || again != (err == nil) {
			t.Errorf("%s: %d attempts, %v", reason, got, err)
		}
	}
}

// A long outage is reported once, and so is its end. A short one is not reported.
func TestOutageReports(t *testing.T) {
	reports := make(chan string, 100)
	var refusals atomic.Int64 // left to come after the first report
	server := startServer(t, func(int, int) string {
		if len(reports) == 0 || refusals.Add(-1) >= 0 {
			return apiv1.QueueFull
		}
		return ""
	})
	p := newProducer(t, server.address, func(config *producer.ProducerConfig) {
		config.Retry = time.Hour
		config.Report = func(line string) { reports <- line }
	})
	for _, count := range []int64{2, 1} {
		refusals.Store(count)
		if err := p.Send(t.Context(), message); err != nil {
			t.Error(err)
		}
	}
	close(reports)
	for _, want := range []string{
		": refused: queue is full; retrying for up to 59m[0-9]+s",
		": accepted after [0-9]+s of retrying",
		"", // no more
	} {
		if want != "" {
			want = server.address + want
		}
		if got := <-reports; !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := len(server.received()); got < 5 {
		t.Errorf("%d attempts", got)
	}
}

// The attempts end after -retry. The error is that of the last attempt.
func TestRetryEnds(t *testing.T) {
	for _, retry := range []time.Duration{0, 300 * time.Millisecond} {
		server := startServer(t, func(int, int) string { return apiv1.QueueFull })
		begin := time.Now()
		err := retrying(t, server.address, retry).Send(t.Context(), message)
		if want := server.address + ": refused: queue is full"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		took, attempts := time.Since(begin), len(server.received())
		if took < retry || retry == 0 && attempts != 1 ||
			retry > 0 && attempts < 2 || attempts > 4 {
			t.Errorf("-retry %s: %d attempts in %s", retry, attempts, took)
		}
	}
}

// A payload is sent again if there was no connection, or if sending it broke off.
func TestRetryAfterFailures(t *testing.T) {
	address := bustest.FreeAddress(t)
	served := make(chan error, 1)
	go func() {
		time.Sleep(200 * time.Millisecond) // nobody listens
		served <- serveAfterReset(address)
	}()
	large := []*apiv1.Message{{Topic: "t", Data: make([]byte, 16<<20)}}
	if err := retrying(t, address, time.Hour).Send(t.Context(), large); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// serveAfterReset listens on address, resets the first connection, and accepts one
// message from the second.
func serveAfterReset(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer listener.Close()
	for _, serve := range []func(context.Context, *net.TCPConn){
		resetEarly, answer("\x82\xa8Accepted\x01\xa5Error\xa0"),
	} {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		serve(context.Background(), connection.(*net.TCPConn))
		connection.Close()
	}
	return nil
}

// An unknown outcome is never followed by another attempt.
func TestNoRetryAfterUnknown(t *testing.T) {
	address := serveOne(t, answer(""))
	p, input := retrying(t, address, time.Hour), strings.NewReader("a\nb\n")
	err := p.SendLines(t.Context(), "t", input, func(int, int) { t.Error("accepted?") })
	want := "lines 1 to 2: " + address + ": outcome unknown, sending again may duplicate: " +
		"the connection ended without a reply"
	if !errors.Is(err, producer.ErrUnknown) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// The end of the context ends the attempts at once.
func TestRetryIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	server := startServer(t, func(number, _ int) string {
		if number == 2 {
			cancel(errors.New("enough"))
		}
		return apiv1.QueueFull
	})
	_, _, err := server.sendLines(ctx, time.Hour, strings.NewReader("a\n"))
	want := "line 1: " + server.address + ": refused: queue is full; enough"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// SendLines returns even if a call of Read never does.
	reader, writer := io.Pipe()
	defer writer.Close()
	_, _, err = server.sendLines(ctx, time.Hour, reader)
	want = "from line 1 on: not accepted: enough"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
