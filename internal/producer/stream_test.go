package producer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

// A line ends before a line feed or at the end of input, whatever its bytes, and however Read
// cuts the input.
func TestLines(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	for input, want := range map[string][]string{
		"":                         {},
		"a":                        {"a"},
		"a\n":                      {"a"},
		"a\nb":                     {"a", "b"},
		"\n":                       {""},
		"\n\n\n":                   {"", "", ""},
		"a\r\nb\r\n":               {"a\r", "b\r"},
		"\x00\n\xff\xfe\n\x80":     {"\x00", "\xff\xfe", "\x80"},
		long + "\n" + long:         {long, long},
		"a\n" + long + "\n\nb\n":   {"a", long, "", "b"},
		long[:65536] + "\n":        {long[:65536]},
		long[:65535] + "\n" + "a":  {long[:65535], "a"},
		long[:65536-4096] + "\na":  {long[:65536-4096], "a"},
		strings.Repeat("ab\n", 99): strings.Fields(strings.Repeat("ab ", 99)),
	} {
		for name, reader := range map[string]func(io.Reader) io.Reader{
			"at once":            func(reader io.Reader) io.Reader { return reader },
			"a byte at a time":   iotest.OneByteReader,
			"half at a time":     iotest.HalfReader,
			"the end with bytes": iotest.DataErrReader,
		} {
			server := startServer(t, acceptAll)
			text := reader(strings.NewReader(input))
			messages, read, err := server.sendLines(t.Context(), 0, text)
			if got := server.accepted(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%.20q, %s: error %v, got %.200q, want %.200q",
					input, name, err, got, want)
			}
			size := len(input)
			if messages != len(want) || read != size && read != size+1 {
				t.Errorf("%.20q, %s: %d messages of %d bytes are counted, want %d of %d",
					input, name, messages, read, len(want), size)
			}
		}
	}
}

// All of the input can be one message.
func TestSendAll(t *testing.T) {
	send := func(server *server, input io.Reader) error {
		return retrying(t, server.address, 0).SendAll(t.Context(), "t", input)
	}
	for _, input := range []string{
		"\n", "a\nb\n", "a\x00\xff", strings.Repeat("x\n", 1_000_000),
	} {
		server := startServer(t, acceptAll)
		err := send(server, iotest.HalfReader(strings.NewReader(input)))
		if got := server.accepted(); err != nil || len(got) != 1 || got[0] != input {
			t.Errorf("%.20q: error %v, got %.200q", input, err, got)
		}
	}
	server := startServer(t, acceptAll)
	err := send(server, iotest.ErrReader(errors.New("why")))
	if err == nil || err.Error() != "not accepted: why" {
		t.Errorf("got %v", err)
	}
	// An empty input is an error unless it is a regular file.
	err = send(server, strings.NewReader(""))
	const want = "not accepted: the input is empty: to send an empty message, use -message ''"
	if err == nil || err.Error() != want || len(server.received()) > 0 {
		t.Errorf("%d payloads, error %v", len(server.received()), err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = send(server, file)
	if got := server.accepted(); err != nil || len(got) != 1 || got[0] != "" {
		t.Errorf("an empty file: error %v, got %q", err, got)
	}
}

// A payload of several lines has at most 1 MiB, and not much less if there is more input.
func TestPayloadSizes(t *testing.T) {
	topic := strings.Repeat("t", apiv1.MaxTopic)
	for name, input := range map[string]string{
		"empty lines":     strings.Repeat("\n", 100_000),
		"128 bytes":       strings.Repeat(strings.Repeat("x", 127)+"\n", 50_000),
		"nearly a block":  strings.Repeat(strings.Repeat("x", 65_000)+"\n", 100),
		"nearly 1 MiB":    strings.Repeat(strings.Repeat("x", 1<<20-300)+"\n", 5),
		"1 MiB and a bit": strings.Repeat(strings.Repeat("x", 1<<20)+"\ny\n", 5),
	} {
		server := startServer(t, acceptAll)
		p, lines := retrying(t, server.address, 0), strings.NewReader(input)
		if err := p.SendLines(t.Context(), topic, lines, func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		all := 0
		for _, payload := range server.received() {
			if all += payload.size; len(payload.messages) > 1 && payload.size > 1<<20 {
				t.Errorf("%s: a payload of %d messages has %d bytes",
					name, len(payload.messages), payload.size)
			}
		}
		if got := strings.Join(server.accepted(), "\n") + "\n"; got != input {
			t.Errorf("%s: %d bytes arrived, of %d", name, len(got), len(input))
		}
		if len(server.received()) > 2*all>>20+2 {
			t.Errorf("%s: %d payloads for %d bytes", name, len(server.received()), all)
		}
	}
}

// While a payload is in flight, the producer reads ahead, but not for ever.
func TestReadingAhead(t *testing.T) {
	const least, most = 700 << 10, 1200 << 10 // bytes of encoded messages
	input := &bustest.Endless{}
	ctx, cancel := context.WithCancelCause(t.Context())
	release := make(chan struct{})
	stop := sync.OnceFunc(func() {
		cancel(errors.New("enough"))
		close(release)
	})
	defer stop()
	var sent atomic.Int64 // size of the payload in flight, in bytes
	server := startServer(t, func(_, size int) string {
		sent.Store(int64(size))
		<-release
		return ""
	})
	var sending sync.WaitGroup
	messages, err := 0, error(nil)
	sending.Go(func() { messages, _, err = server.sendLines(ctx, 0, input) })
	ahead := func() int {
		return len(bustest.Payload("t", bustest.Numbers(1, input.Lines())...)) - int(sent.Load())
	}
	bustest.Until(t, "the lines that are read ahead", func() bool {
		return sent.Load() > 0 && ahead() >= least
	})
	time.Sleep(200 * time.Millisecond) // in which a wrong producer would read more
	if got := ahead(); got > most {
		t.Errorf("%d bytes are read ahead", got)
	}
	stop()
	sending.Wait()
	want := fmt.Sprintf("from line %d on: not accepted: enough", messages+1)
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if got := len(server.received()); got != 1 {
		t.Errorf("%d payloads were sent", got)
	}
}

// tooLarge refuses a payload of more than 10,000 bytes.
func tooLarge(_, size int) string {
	if size > 10_000 {
		return apiv1.TooLarge + "more than that"
	}
	return ""
}

// A batch that is refused for its size is sent in parts. The producer remembers the size.
func TestHalving(t *testing.T) {
	var input strings.Builder
	for i := range 30_000 {
		fmt.Fprintf(&input, "%0100d\n", i)
	}
	server := startServer(t, tooLarge)
	_, _, err := server.sendLines(t.Context(), 0, strings.NewReader(input.String()))
	if got := strings.Join(server.accepted(), "\n") + "\n"; err != nil || got != input.String() {
		t.Errorf("error %v, %d bytes arrived, of %d", err, len(got), input.Len())
	}
	refusals := 0
	for _, payload := range server.received() {
		if !payload.accepted {
			refusals++
		}
	}
	if refusals == 0 || refusals > 7 {
		t.Errorf("%d payloads were refused", refusals)
	}
}

// A batch that is too large for a slow link is sent in parts too. It is not sent again whole.
func TestHalvingOverASlowLink(t *testing.T) {
	input := strings.Repeat(strings.Repeat("x", 100)+"\n", 900)
	server := startServer(t, func(_, size int) string {
		if size > 10_000 {
			return apiv1.NoEnd + "5s"
		}
		return ""
	})
	_, _, err := server.sendLines(t.Context(), time.Hour, strings.NewReader(input))
	if got := strings.Join(server.accepted(), "\n") + "\n"; err != nil || got != input {
		t.Errorf("error %v, %d bytes arrived, of %d", err, len(got), len(input))
	}
}

// A line that is too large by itself is an error.
func TestLineTooLarge(t *testing.T) {
	server := startServer(t, tooLarge)
	input := "a\nb\n" + strings.Repeat("x", 10_000) + "\nc\n"
	messages, _, err := server.sendLines(t.Context(), time.Hour, strings.NewReader(input))
	want := "line 3: " + server.address + ": refused: " + apiv1.TooLarge + "more than that"
	if err == nil || err.Error() != want || messages != 2 ||
		!slices.Equal(server.accepted(), []string{"a", "b"}) {
		t.Errorf("got %v, %d accepted; want %s", err, messages, want)
	}
}

// When a slow link is fast again, payloads grow, but not to a size that the broker never
// accepts.
func TestGrowingAgain(t *testing.T) {
	input := strings.Repeat(strings.Repeat("x", 127)+"\n", 200_000)
	for name, test := range map[string]struct {
		limit        int // of the broker, in bytes
		maxRefusals  int
		leastLargest int // size of the largest payload after the slow time, in bytes
	}{
		"without a limit": {1 << 30, 5, 800_000},
		"with a limit":    {300_000, 7, 140_000},
	} {
		refusals, largest := 0, 0
		server := startServer(t, func(number, size int) string {
			reason := ""
			switch {
			case size > test.limit:
				reason = apiv1.TooLarge + "why"
			case refusals < 5:
				reason = apiv1.NoEnd + "5s"
			default:
				largest = max(largest, size)
			}
			if reason != "" {
				refusals++
			}
			return reason
		})
		_, _, err := server.sendLines(t.Context(), 0, strings.NewReader(input))
		if got := strings.Join(server.accepted(), "\n") + "\n"; err != nil || got != input {
			t.Errorf("%s: error %v, %d bytes arrived, of %d", name, err, len(got), len(input))
		}
		if refusals > test.maxRefusals || largest < test.leastLargest {
			t.Errorf("%s: %d refusals; afterwards the largest payload has %d bytes",
				name, refusals, largest)
		}
	}
}

// refuseSecond refuses the second payload.
func refuseSecond(number, _ int) string {
	if number == 2 {
		return "why"
	}
	return ""
}

// The error names the first line that was not accepted, or the lines whose outcome is unknown.
func TestWhereItEnds(t *testing.T) {
	lines := strings.Repeat(strings.Repeat("x", 99)+"\n", 20_000)
	long := strings.Repeat("x", 1<<20)
	why := iotest.ErrReader(errors.New("why"))
	for name, test := range map[string]struct {
		input  io.Reader
		refuse func(number, size int) string
		want   func(address string, first, count int) string // of the last payload's lines
	}{
		"refused": {strings.NewReader(lines), refuseSecond,
			func(address string, first, count int) string {
				last := first + count - 1
				return fmt.Sprintf("lines %d to %d: %s: refused: why", first, last, address)
			}},
		"refused alone": {strings.NewReader("a\n" + long + "\nb"), refuseSecond,
			func(address string, first, _ int) string {
				return fmt.Sprintf("line %d: %s: refused: why", first, address)
			}},
		"reading fails": {io.MultiReader(strings.NewReader(lines+"half a li"), why), acceptAll,
			func(_ string, first, count int) string {
				return fmt.Sprintf("from line %d on: not accepted: why", first+count)
			}},
	} {
		t.Run(name, func(t *testing.T) {
			server := startServer(t, test.refuse)
			messages, _, err := server.sendLines(t.Context(), time.Hour, test.input)
			first, count := server.last()
			accepted, want := server.accepted(), test.want(server.address, first, count)
			if err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			if messages == 0 || messages != len(accepted) {
				t.Errorf("%d messages are counted, %d were accepted", messages, len(accepted))
			}
			if slices.Contains(accepted, "half a li") {
				t.Error("half a line was sent")
			}
		})
	}
}

// A payload in flight when the context ends is completed, and its outcome returned.
func TestInterruptedInFlight(t *testing.T) {
	for name, send := range map[string]func(*producer.Producer, context.Context) error{
		"the last lines": func(p *producer.Producer, ctx context.Context) error {
			return p.SendLines(ctx, "t", strings.NewReader("a\nb\n"), func(int, int) {})
		},
		"all": func(p *producer.Producer, ctx context.Context) error {
			return p.SendAll(ctx, "t", strings.NewReader("a\nb\n"))
		},
		"one message": func(p *producer.Producer, ctx context.Context) error {
			return p.Send(ctx, message)
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		server := startServer(t, func(int, int) string {
			cancel(errors.New("enough"))
			time.Sleep(10 * time.Millisecond)
			return ""
		})
		err := send(retrying(t, server.address, 0), ctx)
		if err != nil || len(server.accepted()) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A batch that is sent in parts is not sent to its end when the context has ended.
func TestInterruptedBetweenParts(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	server := startServer(t, func(number, size int) string {
		switch {
		case size > 100:
			return apiv1.TooLarge + "why"
		case number > 3:
			cancel(errors.New("enough"))
		}
		return ""
	})
	input := strings.NewReader(strings.Repeat("12345678901234567890\n", 20))
	messages, _, err := server.sendLines(ctx, 0, input)
	want := fmt.Sprintf("from line %d on: not accepted: enough", messages+1)
	if err == nil || err.Error() != want || messages == 0 || messages > 4 {
		t.Errorf("%d accepted, %v, want %s", messages, err, want)
	}
}

// goroutines returns the stacks of all goroutines that are in package producer, of whatever
// test they are.
func goroutines() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var found []string
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(stack, "mbus/internal/producer.") {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

// Nothing continues after the end of a stream, whatever ends it.
func TestNothingIsLeft(t *testing.T) {
	server := startServer(t, func(int, int) string { return "why" })
	lines := &bustest.Endless{}
	_, _, err := server.sendLines(t.Context(), 0, lines)
	read := lines.Bytes()
	if !isRefusal(err) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("enough")) })
	line := &bustest.Endless{OneLine: true}
	slow := iotest.OneByteReader(line)
	err = retrying(t, server.address, 0).SendAll(ctx, "t", slow)
	readOfLine := line.Bytes()
	if err == nil || err.Error() != "not accepted: enough" {
		t.Errorf("got %v", err)
	}
	bustest.Until(t, "the end of the producer's goroutines", func() bool {
		return goroutines() == ""
	})
	// One Read may have been in progress. Of lines it takes some 4 KiB.
	more, moreOfLine := lines.Bytes()-read, line.Bytes()-readOfLine
	if more > 8<<10 || moreOfLine > 1 {
		t.Errorf("afterwards %d bytes of lines and %d of the line were read", more, moreOfLine)
	}
}
