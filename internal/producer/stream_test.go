package producer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
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
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// judge is a server that speaks the protocol and refuses what the test wants to
// have refused.
type judge struct {
	address string

	mutex    sync.Mutex
	payloads []payload
}

// payload is what a judge has received.
type payload struct {
	messages []*apiv1.Message
	size     int // in bytes
	accepted bool
}

// judging starts a server that answers each payload with the reason that refuse
// returns for its number, from 1, and its size; no reason: it is accepted.
func judging(t *testing.T, refuse func(number, size int) string) *judge {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	judge := &judge{address: listener.Addr().String()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			if err := judge.serve(connection, refuse); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return judge
}

// serve serves one connection.
func (judge *judge) serve(connection net.Conn, refuse func(number, size int) string) error {
	defer connection.Close()
	bytes, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	messages, err := decoder.NewMsgpackDecoder(1 << 30).Decode(bytes)
	if err != nil {
		return err
	}
	reply := &apiv1.Reply{Error: refuse(len(judge.received())+1, len(bytes))}
	if reply.Error == "" {
		reply.Accepted = len(messages)
	}
	judge.mutex.Lock()
	judge.payloads = append(judge.payloads, payload{messages, len(bytes), reply.Error == ""})
	judge.mutex.Unlock()
	answer, err := encoder.NewMsgpackEncoder().EncodeReply(reply)
	if err == nil {
		_, err = connection.Write(answer)
	}
	return err
}

// received returns all payloads that have come.
func (judge *judge) received() []payload {
	judge.mutex.Lock()
	defer judge.mutex.Unlock()
	return judge.payloads
}

// accepted returns the data of all accepted messages.
func (judge *judge) accepted() []string {
	data := []string{}
	for _, payload := range judge.received() {
		for _, message := range payload.messages {
			if payload.accepted {
				data = append(data, string(message.Data))
			}
		}
	}
	return data
}

// refuseNone accepts everything.
func refuseNone(int, int) string { return "" }

// retrying returns a producer for address that goes on trying.
func retrying(t *testing.T, address string, retry time.Duration) *producer.Producer {
	t.Helper()
	config := producer.DefaultConfig()
	config.Host, config.Port, _ = net.SplitHostPort(address)
	config.Retry = retry
	sender, err := producer.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

// count returns a callback for SendLines and what it has counted.
func count() (accepted func(messages, bytes int), messages, bytes *int) {
	messages, bytes = new(int), new(int)
	return func(more, moreBytes int) { *messages += more; *bytes += moreBytes }, messages, bytes
}

// A line is what stands before a line feed, whatever its bytes, and the rest of
// the input if there is any; however the input comes.
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
			judge := judging(t, refuseNone)
			accepted, messages, read := count()
			err := retrying(t, judge.address, 0).SendLines(t.Context(), "t", reader(strings.NewReader(input)), accepted)
			if got := judge.accepted(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%.20q, %s: error %v, got %.200q, want %.200q", input, name, err, got, want)
			}
			if size := len(input); *messages != len(want) || *read != size && *read != size+1 {
				t.Errorf("%.20q, %s: %d messages of %d bytes are counted, want %d of %d", input, name, *messages, *read, len(want), size)
			}
		}
	}
}

// All of the input can be one message.
func TestSendAll(t *testing.T) {
	for _, input := range []string{"\n", "a\nb\n", "a\x00\xff", strings.Repeat("x\n", 1_000_000)} {
		judge := judging(t, refuseNone)
		err := retrying(t, judge.address, 0).SendAll(t.Context(), "t", iotest.HalfReader(strings.NewReader(input)))
		if got := judge.accepted(); err != nil || len(got) != 1 || got[0] != input {
			t.Errorf("%.20q: error %v, got %.200q", input, err, got)
		}
	}
	err := retrying(t, judging(t, refuseNone).address, 0).SendAll(t.Context(), "t", iotest.ErrReader(errors.New("why")))
	if err == nil || err.Error() != "not accepted: why" {
		t.Errorf("got %v", err)
	}
}

// Nothing to send is an error, unless it is a file that is empty.
func TestSendAllOfNothing(t *testing.T) {
	judge := judging(t, refuseNone)
	err := retrying(t, judge.address, 0).SendAll(t.Context(), "t", strings.NewReader(""))
	const want = "not accepted: the input is empty: to send an empty message, use -message ''"
	if err == nil || err.Error() != want || len(judge.received()) > 0 {
		t.Errorf("%d payloads, error %v", len(judge.received()), err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = retrying(t, judge.address, 0).SendAll(t.Context(), "t", file)
	if got := judge.accepted(); err != nil || len(got) != 1 || got[0] != "" {
		t.Errorf("an empty file: error %v, got %q", err, got)
	}
}

// A payload of several lines has at most 1 MiB, and not much less where there
// is enough input.
func TestPayloadSizes(t *testing.T) {
	topic := strings.Repeat("t", apiv1.MaxTopic)
	for name, input := range map[string]string{
		"empty lines":     strings.Repeat("\n", 100_000),
		"128 bytes":       strings.Repeat(strings.Repeat("x", 127)+"\n", 50_000),
		"nearly a block":  strings.Repeat(strings.Repeat("x", 65_000)+"\n", 100),
		"nearly 1 MiB":    strings.Repeat(strings.Repeat("x", 1<<20-300)+"\n", 5),
		"1 MiB and a bit": strings.Repeat(strings.Repeat("x", 1<<20)+"\ny\n", 5),
	} {
		judge := judging(t, refuseNone)
		if err := retrying(t, judge.address, 0).SendLines(t.Context(), topic, strings.NewReader(input), func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		all := 0
		for _, payload := range judge.received() {
			if all += payload.size; len(payload.messages) > 1 && payload.size > 1<<20 {
				t.Errorf("%s: a payload of %d messages has %d bytes", name, len(payload.messages), payload.size)
			}
		}
		if got := strings.Join(judge.accepted(), "\n") + "\n"; got != input {
			t.Errorf("%s: %d bytes arrived, of %d", name, len(got), len(input))
		}
		if most := 2*all>>20 + 2; len(judge.received()) > most {
			t.Errorf("%s: %d payloads for %d bytes", name, len(judge.received()), all)
		}
	}
}

// endlessLines is an input without end that counts what is read of it.
type endlessLines struct{ read atomic.Int64 }

func (input *endlessLines) Read(buffer []byte) (int, error) {
	for i := range buffer {
		buffer[i] = 'x'
	}
	buffer[len(buffer)-1] = '\n'
	input.read.Add(int64(len(buffer)))
	return len(buffer), nil
}

// While a payload is in flight reading goes on, but not for good.
func TestReadingAhead(t *testing.T) {
	input := &endlessLines{}
	ctx, cancel := context.WithCancelCause(t.Context())
	var during int64
	judge := judging(t, func(int, int) string {
		for during = -1; during != input.read.Load(); time.Sleep(200 * time.Millisecond) {
			during = input.read.Load()
		}
		cancel(errors.New("enough"))
		return ""
	})
	accepted, messages, _ := count()
	err := retrying(t, judge.address, 0).SendLines(ctx, "t", input, accepted)
	if want := fmt.Sprintf("from line %d on: not accepted: enough", *messages+1); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	payloads := judge.received()
	if sent := int64(payloads[0].size); len(payloads) != 1 || during < sent+512<<10 || during > sent+1200<<10 {
		t.Errorf("%d payloads, the first of %d bytes; meanwhile %d bytes of input were read", len(payloads), sent, during)
	}
}

// A batch that is refused for its size goes in parts, and that is remembered;
// only a line that is too large alone is an error.
func TestHalving(t *testing.T) {
	const limit = 10_000
	tooLarge := func(_, size int) string {
		if size > limit {
			return apiv1.TooLarge + "more than that"
		}
		return ""
	}
	judge := judging(t, tooLarge)
	var input strings.Builder
	for i := range 30_000 {
		fmt.Fprintf(&input, "%0100d\n", i)
	}
	if err := retrying(t, judge.address, 0).SendLines(t.Context(), "t", strings.NewReader(input.String()), func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(judge.accepted(), "\n") + "\n"; got != input.String() {
		t.Error("the lines have changed")
	}
	refusals := 0
	for _, payload := range judge.received() {
		if !payload.accepted {
			refusals++
		}
	}
	if refusals == 0 || refusals > 7 {
		t.Errorf("%d payloads were refused", refusals)
	}

	// A payload that is too much for a slow link is not tried again whole.
	part := input.String()[:101*900]
	judge = judging(t, func(_, size int) string {
		if size > limit {
			return apiv1.NoEnd + "5s"
		}
		return ""
	})
	if err := retrying(t, judge.address, time.Hour).SendLines(t.Context(), "t", strings.NewReader(part), func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(judge.accepted(), "\n") + "\n"; got != part {
		t.Error("over a slow link, the lines have changed")
	}

	judge = judging(t, tooLarge)
	accepted, messages, _ := count()
	err := retrying(t, judge.address, time.Hour).SendLines(t.Context(), "t", strings.NewReader("a\nb\n"+strings.Repeat("x", limit)+"\nc\n"), accepted)
	want := "line 3: " + judge.address + ": refused: " + apiv1.TooLarge + "more than that"
	if err == nil || err.Error() != want || *messages != 2 || !reflect.DeepEqual(judge.accepted(), []string{"a", "b"}) {
		t.Errorf("got %v, %d accepted; want %s", err, *messages, want)
	}
}

// After a slow time, payloads grow again; not to a size that the broker never takes.
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
		judge := judging(t, func(number, size int) string {
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
		sender, reader := retrying(t, judge.address, 0), strings.NewReader(input)
		err := sender.SendLines(t.Context(), "t", reader, func(int, int) {})
		if got := strings.Join(judge.accepted(), "\n") + "\n"; err != nil || got != input {
			t.Errorf("%s: error %v, %d bytes arrived, of %d", name, err, len(got), len(input))
		}
		if refusals > test.maxRefusals || largest < test.leastLargest {
			t.Errorf("%s: %d refusals; afterwards the largest payload has %d bytes",
				name, refusals, largest)
		}
	}
}

// The error says where to go on, or which lines are in doubt.
func TestWhereItEnds(t *testing.T) {
	lines := strings.Repeat(strings.Repeat("x", 99)+"\n", 20_000)
	refuseSecond := func(number, _ int) string {
		if number == 2 {
			return "why"
		}
		return ""
	}
	for name, test := range map[string]struct {
		input  io.Reader
		refuse func(number, size int) string
		want   func(judge *judge, first, count int) string // of the lines of the last payload
	}{
		"refused": {strings.NewReader(lines), refuseSecond, func(judge *judge, first, count int) string {
			return fmt.Sprintf("lines %d to %d: %s: refused: why", first, first+count-1, judge.address)
		}},
		"refused alone": {strings.NewReader("a\n" + strings.Repeat("x", 1<<20) + "\nb"), refuseSecond, func(judge *judge, first, _ int) string {
			return fmt.Sprintf("line %d: %s: refused: why", first, judge.address)
		}},
		"reading fails": {io.MultiReader(strings.NewReader(lines+"half a li"), iotest.ErrReader(errors.New("why"))), refuseNone, func(_ *judge, first, count int) string {
			return fmt.Sprintf("from line %d on: not accepted: why", first+count)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			judge := judging(t, test.refuse)
			accepted, messages, _ := count()
			err := retrying(t, judge.address, time.Hour).SendLines(t.Context(), "t", test.input, accepted)
			payloads := judge.received()
			last := payloads[len(payloads)-1]
			first := len(judge.accepted()) + 1
			if last.accepted {
				first -= len(last.messages)
			}
			if want := test.want(judge, first, len(last.messages)); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			got := judge.accepted()
			if *messages == 0 || *messages != len(got) {
				t.Errorf("%d messages are counted, %d were accepted", *messages, len(got))
			}
			if slices.Contains(got, "half a li") {
				t.Error("half a line was sent")
			}
		})
	}
}

// What was not queued is sent again for -retry, unless the broker would refuse it again.
func TestRetry(t *testing.T) {
	for reason, again := range map[string]bool{
		apiv1.QueueFull: true, apiv1.Stopping: true, apiv1.LogGone: true, apiv1.NoEnd + "5s": true, apiv1.Broke + "why": true,
		apiv1.TooLarge + "why": false, "message 1: why": false, "queue is fuller": false,
	} {
		judge := judging(t, func(number, _ int) string {
			if number < 4 {
				return reason
			}
			return ""
		})
		err := retrying(t, judge.address, time.Hour).Send(t.Context(), message)
		if got := len(judge.received()); again && (err != nil || got != 4) || !again && (err == nil || got != 1) {
			t.Errorf("%s: %d attempts, %v", reason, got, err)
		}
	}
}

// A long outage is reported once, and so is its end. A short one is not reported.
func TestOutageReports(t *testing.T) {
	reports := make(chan string, 100)
	var refusals atomic.Int64 // left to come after the first report
	judge := judging(t, func(int, int) string {
		if len(reports) == 0 || refusals.Add(-1) >= 0 {
			return apiv1.QueueFull
		}
		return ""
	})
	config := producer.DefaultConfig()
	config.Host, config.Port, _ = net.SplitHostPort(judge.address)
	config.Retry = time.Hour
	config.Report = func(line string) { reports <- line }
	sender, err := producer.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, count := range []int64{2, 1} {
		refusals.Store(count)
		if err := sender.Send(t.Context(), message); err != nil {
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
			want = judge.address + want
		}
		if got := <-reports; !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := len(judge.received()); got < 5 {
		t.Errorf("%d attempts", got)
	}
}

// The attempts end with -retry, and the error is that of the last.
func TestRetryEnds(t *testing.T) {
	for _, retry := range []time.Duration{0, 300 * time.Millisecond} {
		judge := judging(t, func(int, int) string { return apiv1.QueueFull })
		begin := time.Now()
		err := retrying(t, judge.address, retry).Send(t.Context(), message)
		if want := judge.address + ": refused: queue is full"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		took, attempts := time.Since(begin), len(judge.received())
		if took < retry || retry == 0 && attempts != 1 || retry > 0 && attempts < 2 || attempts > 4 {
			t.Errorf("-retry %s: %d attempts in %s", retry, attempts, took)
		}
	}
}

// Where there is no connection, and where a payload breaks off, it is sent again.
func TestRetryAfterFailures(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	large := []*apiv1.Message{{Topic: "t", Data: make([]byte, 16<<20)}}
	served := make(chan error)
	go func() {
		time.Sleep(200 * time.Millisecond) // nobody listens
		listener, err := net.Listen("tcp", address)
		if err != nil {
			served <- err
			return
		}
		defer listener.Close()
		connection, err := listener.Accept() // it breaks off
		if err != nil {
			served <- err
			return
		}
		connection.Read(make([]byte, 1))
		connection.(*net.TCPConn).SetLinger(0)
		connection.Close()
		connection, err = listener.Accept()
		if err == nil {
			saying("\x82\xa8Accepted\x01\xa5Error\xa0")(connection.(*net.TCPConn))
			connection.Close()
		}
		served <- err
	}()
	if err := retrying(t, address, time.Hour).Send(t.Context(), large); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// An unknown outcome is never followed by another attempt.
func TestNoRetryAfterUnknown(t *testing.T) {
	address := answering(t, saying("")) // it serves one connection, and refuses others
	err := retrying(t, address, time.Hour).SendLines(t.Context(), "t", strings.NewReader("a\nb\n"), func(int, int) { t.Error("accepted?") })
	if want := "lines 1 to 2: " + address + ": outcome unknown, sending again may duplicate: the connection ended without a reply"; !errors.Is(err, producer.ErrUnknown) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A payload in flight when the context ends is completed, and its outcome returned.
func TestInterruptedInFlight(t *testing.T) {
	for name, send := range map[string]func(*producer.Producer, context.Context) error{
		"the last lines": func(sender *producer.Producer, ctx context.Context) error {
			return sender.SendLines(ctx, "t", strings.NewReader("a\nb\n"), func(int, int) {})
		},
		"all": func(sender *producer.Producer, ctx context.Context) error {
			return sender.SendAll(ctx, "t", strings.NewReader("a\nb\n"))
		},
		"one message": func(sender *producer.Producer, ctx context.Context) error { return sender.Send(ctx, message) },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		judge := judging(t, func(int, int) string {
			cancel(errors.New("enough"))
			time.Sleep(10 * time.Millisecond)
			return ""
		})
		if err := send(retrying(t, judge.address, 0), ctx); err != nil || len(judge.accepted()) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A batch that is sent in parts is not sent to its end when the context has ended.
func TestInterruptedBetweenParts(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	judge := judging(t, func(number, size int) string {
		switch {
		case size > 100:
			return apiv1.TooLarge + "why"
		case number > 3:
			cancel(errors.New("enough"))
		}
		return ""
	})
	accepted, messages, _ := count()
	err := retrying(t, judge.address, 0).SendLines(ctx, "t", strings.NewReader(strings.Repeat("12345678901234567890\n", 20)), accepted)
	if want := fmt.Sprintf("from line %d on: not accepted: enough", *messages+1); err == nil || err.Error() != want || *messages == 0 || *messages > 4 {
		t.Errorf("%d accepted, %v, want %s", *messages, err, want)
	}
}

// endlessLine is an input without line feeds that counts how often it is read.
type endlessLine struct{ reads atomic.Int64 }

func (input *endlessLine) Read(buffer []byte) (int, error) {
	input.reads.Add(1)
	buffer[0] = 'x'
	return 1, nil
}

// Nothing goes on after the end, however it comes.
func TestNothingIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	judge := judging(t, func(int, int) string { return "why" })
	input := &endlessLines{}
	if err := retrying(t, judge.address, 0).SendLines(t.Context(), "t", input, func(int, int) {}); !refused(err) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("enough")) })
	line := &endlessLine{}
	if err := retrying(t, judge.address, 0).SendAll(ctx, "t", line); err == nil || err.Error() != "not accepted: enough" {
		t.Errorf("got %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+1; time.Sleep(time.Millisecond) { // the judge's
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left of %d", runtime.NumGoroutine(), before)
		}
	}
	lines, reads := input.read.Load(), line.reads.Load()
	time.Sleep(20 * time.Millisecond)
	if input.read.Load() != lines || line.reads.Load() != reads {
		t.Error("the input is still read")
	}
}

// The end of the context ends the attempts at once.
func TestRetryIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	judge := judging(t, func(number, _ int) string {
		if number == 2 {
			cancel(errors.New("enough"))
		}
		return apiv1.QueueFull
	})
	accepted, _, _ := count()
	err := retrying(t, judge.address, time.Hour).SendLines(ctx, "t", strings.NewReader("a\n"), accepted)
	if want := "line 1: " + judge.address + ": refused: queue is full; enough"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// A Read that never returns does not keep SendLines.
	reader, writer := io.Pipe()
	defer writer.Close()
	err = retrying(t, judge.address, time.Hour).SendLines(ctx, "t", reader, accepted)
	if want := "from line 1 on: not accepted: enough"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
