package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
)

// faulty is a log that takes budget bytes more and then fails with err, until it
// is given another budget.
type faulty struct {
	record
	budget atomic.Int64
	err    error
	hook   func() // called when it fails, if not nil
}

const endless = 1 << 60

func (faulty *faulty) Write(text []byte) (int, error) {
	taken := min(int64(len(text)), faulty.budget.Load())
	faulty.budget.Add(-taken)
	faulty.record.Write(text[:taken])
	if taken < int64(len(text)) {
		if faulty.hook != nil {
			faulty.hook()
		}
		return int(taken), faulty.err
	}
	return int(taken), nil
}

// full is what a full disk answers.
var full error = &os.PathError{Op: "write", Path: "log", Err: syscall.ENOSPC}

// faultyLog gives a broker a log that fails.
func faultyLog(config *BrokerConfig, err error) *faulty {
	log := &faulty{err: err}
	log.budget.Store(endless)
	config.Log = log
	return log
}

// outageLine starts the line that follows when the log takes lines again.
const outageLine = "Broker: the log took nothing for "

// A message whose line was not written stays queued, and a line that was torn by
// a short write is finished, wherever it was torn.
func TestShortWrites(t *testing.T) {
	// One line is longer than a write, and has characters to be cut in.
	texts := []string{"first", strings.Repeat("注\n\xff", gatherSize/4), "", "last"}
	wantLines := []string{"creating topic t", "4 new messages dispatched on topic t"}
	for _, text := range texts {
		text = strings.NewReplacer("\n", `\n`, "\xff", `\xff`).Replace(text)
		wantLines = append(wantLines, "Received new message from topic 't': '"+text+"'")
	}
	size := 0
	for _, line := range wantLines {
		size += len("2006/01/02 15:04:05 ") + len(line) + len("\n")
	}
	for budget := range size {
		if budget > 200 && budget < size-150 && budget%10007 != 0 {
			continue // within the long line one place is like the other
		}
		var log *faulty
		bus := listen(t, func(config *BrokerConfig) { log = faultyLog(config, full) })
		for _, text := range texts {
			bus.HandleNewMessage(&apiv1.Message{Topic: "t", Data: []byte(text)})
		}
		bus.announceLocked()
		log.budget.Store(int64(budget))
		if err := bus.Drain(); !errors.Is(err, syscall.ENOSPC) || len(log.String()) != budget {
			t.Fatalf("%d bytes: wrote %d, error %v", budget, len(log.String()), err)
		}
		written := max(strings.Count(log.String(), "\n")-2, 0) // without the notices
		want := topicBytes("t")
		for _, text := range texts[written:] {
			want += messageOverhead + len("t") + len(text)
		}
		if bus.state.queuedMessages != len(texts)-written || bus.state.accountedBytes != want {
			t.Fatalf("%d bytes: %d messages, %d bytes count as queued, want %d, %d",
				budget, bus.state.queuedMessages, bus.state.accountedBytes, len(texts)-written, want)
		}
		log.budget.Store(endless)
		if err := bus.Drain(); err != nil {
			t.Fatal(err)
		}
		got := lines(t, log.String())
		if len(got) != len(wantLines)+1 || !slices.Equal(got[:len(wantLines)], wantLines) ||
			!strings.HasPrefix(got[len(wantLines)], outageLine) {
			t.Fatalf("%d bytes: %d lines, not those that were wanted", budget, len(got))
		}
		if bus.state.queuedMessages != 0 || bus.state.accountedBytes != topicBytes("t") {
			t.Fatalf("%d bytes: %d messages, %d bytes still count", budget, bus.state.queuedMessages, bus.state.accountedBytes)
		}
		bus.Close()
	}
}

// A writer that takes less without an error breaks the rules of io.Writer, and is
// taken for one that fails.
func TestSilentShortWrite(t *testing.T) {
	var log *faulty
	bus := listen(t, func(config *BrokerConfig) { log = faultyLog(config, nil) })
	defer bus.Close()
	bus.HandleNewMessage(&apiv1.Message{Topic: "t"})
	log.budget.Store(0)
	if err := bus.Drain(); err != io.ErrShortWrite || bus.state.queuedMessages != 1 {
		t.Errorf("Drain returns %v, %d messages are queued", err, bus.state.queuedMessages)
	}
}

// What can't be written goes back in front of what came meanwhile.
func TestPutBackInOrder(t *testing.T) {
	var log *faulty
	bus := listen(t, func(config *BrokerConfig) { log = faultyLog(config, full) })
	defer bus.Close()
	long := make([]byte, gatherSize)
	for _, topic := range []string{"a", "b"} {
		bus.HandleNewMessage(&apiv1.Message{Topic: topic, Data: long})
	}
	log.budget.Store(100)
	log.hook = func() { bus.HandleNewMessage(&apiv1.Message{Topic: "c"}) }
	if err := bus.Drain(); err == nil {
		t.Fatal("the log did not fail")
	}
	log.budget.Store(endless)
	if err := bus.Drain(); err != nil {
		t.Fatal(err)
	}
	var order string
	for _, line := range lines(t, log.String()) {
		if rest, ok := strings.CutPrefix(line, "Received new message from topic '"); ok {
			order += rest[:1]
		}
	}
	if order != "abc" {
		t.Errorf("the order is %s", order)
	}
}

// While the disk is full, messages are accepted and kept; once there is room they
// are written, and the log tells of the outage.
func TestFullDisk(t *testing.T) {
	var log *faulty
	bus := start(t, func(config *BrokerConfig) {
		log = faultyLog(config, full)
		config.Interval = 5 * time.Millisecond
	})
	log.budget.Store(30)
	texts := numbered(500)
	for _, text := range texts {
		bus.accept(payload("t", text), 1)
	}
	if strings.Contains(log.String(), "Received") {
		t.Error("the disk was not full")
	}
	log.budget.Store(endless)
	until(t, "the last message", func() bool { return strings.Contains(log.String(), "'499'\n") })
	until(t, "the end of the outage", func() bool {
		return strings.Contains(log.String(), ": write log: no space left on device\n")
	})
	bus.Close()
	if got := received(t, log.String())["t"]; !slices.Equal(got, texts) {
		t.Errorf("logged %q", got)
	}
	if got := strings.Count(log.String(), outageLine); got != 1 {
		t.Errorf("the outage is told %d times", got)
	}
}

// A log that is gone for good ends the broker, which then says how much was lost.
func TestClosedPipe(t *testing.T) {
	for _, gone := range []error{
		&os.PathError{Op: "write", Path: "log", Err: syscall.EPIPE}, io.ErrClosedPipe, os.ErrClosed,
		&os.PathError{Op: "write", Path: "log", Err: syscall.EIO}, // a terminal that hung up
	} {
		var log *faulty
		bus := listen(t, func(config *BrokerConfig) { log = faultyLog(config, gone) })
		go func() { bus.ended <- bus.ProducerListen() }()
		until(t, "the listening line", func() bool { return strings.Contains(log.String(), "listening on") })
		log.budget.Store(0)
		bus.send(payload("t", "1"))
		if err := <-bus.ended; !errors.Is(err, gone) || !strings.HasPrefix(err.Error(), "messages not written: 1: ") {
			t.Errorf("ProducerListen returns %v", err)
		}
		if _, err := net.Dial("tcp", bus.Addr().String()); err == nil {
			t.Error("it still listens")
		}
		bus.Close()
	}
}

// A disk's error of input or output is one that the next try may not have.
func TestDiskError(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var log logWriter
	if log.start(file); log.isPermanent(syscall.EIO) {
		t.Error("EIO of a regular file is taken to be permanent")
	}
}

// pieces is a log that keeps each write by itself.
type pieces []string

func (pieces *pieces) Write(text []byte) (int, error) {
	*pieces = append(*pieces, string(text))
	return len(text), nil
}

func (pieces *pieces) String() string { return strings.Join(*pieces, "") }

// Each write ends with the end of a line, unless a line fills it from its begin to
// its end. So writers that share a pipe or a file don't cut each other's lines.
func TestWritesEndWithALine(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, longest := range []int{100, 3000, 3 * pipeWrite, 3 * gatherSize} {
		log := &pieces{}
		bus := listen(t, func(config *BrokerConfig) { config.Log = log })
		for range 300 {
			data := strings.Repeat("\n", random.IntN(longest))
			bus.HandleNewMessage(&apiv1.Message{Topic: "t", Data: []byte(data)})
			bus.notify("a notice")
		}
		bus.announceLocked()
		if err := bus.Drain(); err != nil {
			t.Fatal(err)
		}
		for i, piece := range *log {
			if len(piece) > pipeWrite || strings.Contains(piece, "\n") != strings.HasSuffix(piece, "\n") ||
				!strings.Contains(piece, "\n") && len(piece) < pipeWrite {
				t.Fatalf("write %d of %d bytes is %.50q...%.50q", i, len(piece), piece, piece[max(0, len(piece)-50):])
			}
		}
		if got := lines(t, log.String()); len(got) != 602 {
			t.Errorf("%d lines were written, want 602", len(got))
		}
		bus.Close()
	}
}

// stuck is a log that takes nothing until it is released.
type stuck struct {
	record
	released chan struct{}
}

func (stuck *stuck) Write(text []byte) (int, error) {
	<-stuck.released
	return stuck.record.Write(text)
}

// While nobody reads the log, the broker goes on accepting until the queue is
// full; nothing that it accepted is lost, nor what it refused accepted.
func TestStuckLog(t *testing.T) {
	log := &stuck{released: make(chan struct{})}
	bus := listen(t, func(config *BrokerConfig) {
		config.Log = log
		config.MaxQueued = 100_000
		config.Timeout = time.Second
	})
	go func() { bus.ended <- bus.ProducerListen() }()
	var want []string
	for i := 0; ; i++ {
		text := fmt.Sprint(i)
		reply := bus.send(payload("t", text))
		if reply.Accepted == 1 {
			want = append(want, text)
		} else if *reply == (apiv1.Reply{Error: "queue is full"}) {
			break
		} else {
			t.Fatalf("got %+v", *reply)
		}
	}
	if each := 100_000 / len(want); each < 128 || each > 160 {
		t.Errorf("%d messages fit", len(want))
	}
	bus.accept("", 0) // zero messages always fit
	close(log.released)
	until(t, "room", func() bool { return bus.send(payload("t", "after")).Accepted == 1 })
	bus.Close()
	if err := <-bus.ended; err != nil {
		t.Error(err)
	}
	if got := received(t, log.String())["t"]; !slices.Equal(got, append(want, "after")) {
		t.Errorf("logged %d messages, want %d and one more", len(got), len(want))
	}
}

// A broker whose log takes nothing does not wait for it for ever when it stops.
func TestCloseWithAStuckLog(t *testing.T) {
	log := &stuck{released: make(chan struct{})}
	defer close(log.released)
	bus := listen(t, func(config *BrokerConfig) {
		config.Log = log
		config.Timeout = time.Second
	})
	go func() { bus.ended <- bus.ProducerListen() }()
	bus.accept(payload("t", "1", "2"), 2)
	begin := time.Now()
	bus.Close()
	if err := <-bus.ended; err == nil || err.Error() != "messages not written: 2: the log took nothing for 1s" {
		t.Errorf("ProducerListen returns %v", err)
	}
	if took := time.Since(begin); took < time.Second || took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
}

// A log that fails until the end, too.
func TestCloseWithAFullDisk(t *testing.T) {
	var log *faulty
	bus := listen(t, func(config *BrokerConfig) {
		log = faultyLog(config, full)
		config.Timeout = time.Second
	})
	go func() { bus.ended <- bus.ProducerListen() }()
	log.budget.Store(0)
	bus.accept(payload("t", "1", "2"), 2)
	bus.Close()
	if err := <-bus.ended; err == nil || err.Error() != "messages not written: 2: the log took nothing for 1s" {
		t.Errorf("ProducerListen returns %v", err)
	}
	log.budget.Store(endless) // ends the ticker goroutine
	<-bus.Broker.ended
}

// sluggish is a log that takes its time for every 4 KiB.
type sluggish struct {
	record
	pause time.Duration
}

func (sluggish *sluggish) Write(text []byte) (int, error) {
	time.Sleep(sluggish.pause * time.Duration(len(text)) / (4 << 10))
	return sluggish.record.Write(text)
}

// A log that is slow, but takes something now and then, gets everything when the
// broker stops, however long that takes.
func TestStopWithASlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &sluggish{pause: time.Second}
		bus := listen(t, func(config *BrokerConfig) {
			config.Log = log
			config.Timeout = 3 * time.Second // less than one write of 64 KiB would take
		})
		defer bus.Close()
		for range 3 {
			bus.HandleNewMessage(&apiv1.Message{Topic: "t", Data: []byte(strings.Repeat("x", gatherSize))})
		}
		served := make(chan struct{})
		close(served)
		result := make(chan error, 1)
		go func() { result <- bus.tickLoop(served) }()
		if err := bus.awaitLastDrain(result); err != nil {
			t.Error(err)
		}
		if got := received(t, log.String())["t"]; len(got) != 3 {
			t.Errorf("%d of 3 messages were logged", len(got))
		}
	})
}

// At interval 0 what was acknowledged is in the log.
func TestIntervalZero(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.Interval = 0 })
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprint(i), "and more")
		bus.accept(payload("t", want[2*i:]...), 2)
		if got := received(t, bus.record.String())["t"]; !slices.Equal(got, want) {
			t.Fatalf("message %d is acknowledged and not in the log", i)
		}
	}
}

// At interval 0 a payload that can't be written in time is not acknowledged, and
// stays queued.
func TestIntervalZeroWithAFullDisk(t *testing.T) {
	var log *faulty
	bus := start(t, func(config *BrokerConfig) {
		log = faultyLog(config, full)
		config.Interval = 0
		config.Timeout = time.Second
	})
	log.budget.Store(10)
	connection := bus.dial()
	bus.write(connection, payload("t", "kept"), true)
	if answer, err := io.ReadAll(connection); err != nil || len(answer) > 0 {
		t.Errorf("the answer is %q, error %v", answer, err)
	}
	log.budget.Store(endless)
	// Without another payload, the next try comes by itself.
	until(t, "the message in the log", func() bool { return strings.Contains(log.String(), "'t': 'kept'\n") })
	until(t, "the missing reply in the log", func() bool {
		return strings.Contains(log.String(), "no reply to "+connection.LocalAddr().String()+": its messages are queued, but were not written in time\n")
	})
	bus.accept(payload("t", "next"), 1)
	log.budget.Store(0)
	connection = bus.dial()
	bus.write(connection, payload("t", "last"), true)
	io.ReadAll(connection)
	bus.accept("", 0) // who sends no message waits for none
	log.budget.Store(endless)
	until(t, "the last message", func() bool { return strings.Contains(log.String(), "'t': 'last'\n") })
	if got := received(t, log.String())["t"]; !slices.Equal(got, []string{"kept", "next", "last"}) {
		t.Errorf("logged %q", got)
	}
}

// When the queue is full, the drain does not wait for the tick, and the
// connection waits for the drain.
func TestFullQueueIsDrained(t *testing.T) {
	bus := start(t, func(config *BrokerConfig) { config.MaxQueued = 10_000 })
	texts := numbered(1000)
	for _, text := range texts {
		bus.accept(payload("t", text), 1)
	}
	bus.Close()
	if got := received(t, bus.record.String())["t"]; !slices.Equal(got, texts) {
		t.Errorf("logged %d messages", len(got))
	}
}

// What can't fit an empty queue is refused at once, and what just fits is taken.
func TestPayloadLargerThanTheQueue(t *testing.T) {
	for name, messages := range map[string]string{
		"one message": payload("topic", strings.Repeat("x", 1000)),
		"one topic":   payload("topic", numbered(100)...),
		"more topics": "\x94" + payload("a", "1") + payload("b", "1") + payload("a", "2") + payload("b", "2"),
	} {
		decoded, err := listen(t, nil).decoder.Decode([]byte(messages))
		if err != nil {
			t.Fatal(err)
		}
		need := payloadBytes(decoded)
		bus := start(t, func(config *BrokerConfig) {
			config.MaxQueued = need
			config.Timeout = time.Minute
		})
		for range 3 {
			bus.accept(messages, len(decoded))
			bus.state.Lock()
			if got := bus.state.accountedBytes; got != need {
				t.Errorf("%s: %d bytes count, not %d", name, got, need)
			}
			bus.state.Unlock()
		}
		tight := start(t, func(config *BrokerConfig) {
			config.MaxQueued = need - 1
			config.Timeout = time.Minute
		})
		tight.refuse(messages, fmt.Sprintf("the payload is too large: more than an empty queue takes (-max-queued %d)", need-1))
	}
}

// hooked is a log that calls a function before each write of a message.
type hooked struct {
	record
	hook func()
}

func (hooked *hooked) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte("Received")) {
		hooked.hook()
	}
	return hooked.record.Write(text)
}

// A line of the loop does not wait for the end of a long drain.
func TestNoticesDuringADrain(t *testing.T) {
	log := &hooked{hook: func() {}}
	bus := listen(t, func(config *BrokerConfig) { config.Log = log })
	defer bus.Close()
	for range 10 {
		bus.HandleNewMessage(&apiv1.Message{Topic: "t", Data: make([]byte, gatherSize)})
	}
	var once sync.Once
	log.hook = func() { once.Do(func() { bus.notify("in between") }) }
	if err := bus.Drain(); err != nil {
		t.Fatal(err)
	}
	got := lines(t, log.String())
	if at := slices.Index(got, "in between"); at != 2 || len(got) != 12 { // after "creating topic t"
		t.Errorf("the notice is line %d of %d", at+1, len(got))
	}
}

// A printable character stands as it is, also where a long message is cut.
func TestCutsBetweenCharacters(t *testing.T) {
	bus := listen(t, nil)
	defer bus.Close()
	var want []string
	for _, text := range []string{"🐢", "🐢\x80", "注", "\x80\x80\x80\x80\x80", "\xf0\x9f\x90", "é"} {
		for before := gatherSize - 6; before <= gatherSize+1; before++ {
			data := strings.Repeat("x", before) + text + "y"
			bus.HandleNewMessage(&apiv1.Message{Topic: "t", Data: []byte(data)})
			want = append(want, string(escape.Append(nil, []byte(data))))
		}
	}
	if err := bus.Drain(); err != nil {
		t.Fatal(err)
	}
	for i, got := range received(t, bus.record.String())["t"] {
		if got != want[i] {
			t.Errorf("message %d ends with %s, want %s", i, got[len(got)-30:], want[i][len(want[i])-30:])
		}
	}
}

// Topics that are empty are forgotten while there are many, and made again.
func TestTopicsAreForgotten(t *testing.T) {
	bus := listen(t, nil)
	defer bus.Close()
	dispatch := func(first, count int) {
		for i := range count {
			bus.HandleNewMessage(&apiv1.Message{Topic: fmt.Sprint(first + i)})
		}
		bus.announceLocked()
	}
	drain := func() {
		if err := bus.Drain(); err != nil {
			t.Fatal(err)
		}
	}
	dispatch(0, maxEmptyTopics)
	drain()
	if len(bus.topics) != maxEmptyTopics {
		t.Fatalf("%d topics are known, want %d", len(bus.topics), maxEmptyTopics)
	}
	dispatch(maxEmptyTopics, 5)
	if len(bus.topics) != maxEmptyTopics+5 {
		t.Fatalf("%d topics are known", len(bus.topics))
	}
	drain()
	if len(bus.topics) != maxEmptyTopics {
		t.Fatalf("%d topics are known, want %d", len(bus.topics), maxEmptyTopics)
	}
	cost := 0
	for name := range bus.topics {
		cost += topicBytes(name)
	}
	if bus.state.accountedBytes != cost {
		t.Errorf("%d bytes count, want %d", bus.state.accountedBytes, cost)
	}
	// A topic with a message is never forgotten.
	dispatch(0, 1)
	bus.state.Lock()
	bus.forgetTopicsLocked(true)
	bus.state.Unlock()
	if len(bus.topics) != 1 || bus.topics["0"] == nil {
		t.Errorf("%d topics are left", len(bus.topics))
	}
	drain()
	before := strings.Count(bus.record.String(), "creating topic 7\n")
	dispatch(7, 1)
	drain()
	if got := strings.Count(bus.record.String(), "creating topic 7\n"); got != before+1 {
		t.Errorf("the topic was made %d times, want %d", got, before+1)
	}
}

// Refusals can't fill the memory while nobody reads the log: they are counted.
func TestNoticesAreBounded(t *testing.T) {
	bus := listen(t, nil)
	defer bus.Close()
	line := strings.Repeat("x", 100)
	const count = 20_000
	for range count {
		bus.notify(line)
	}
	if bus.state.notices.bytes > maxNotices+200 {
		t.Errorf("%d bytes of notices wait", bus.state.notices.bytes)
	}
	if err := bus.Drain(); err != nil {
		t.Fatal(err)
	}
	got := lines(t, bus.record.String())
	want := fmt.Sprintf("Broker: log lines left out while the log did not keep up: %d", count-(len(got)-1))
	if kept := len(got) - 1; kept < 5000 || kept == count || got[kept] != want {
		t.Errorf("%d lines, the last is %s, want %s", len(got), got[len(got)-1], want)
	}
	bus.notify("again")
	if err := bus.Drain(); err != nil || !strings.HasSuffix(bus.record.String(), " again\n") {
		t.Errorf("after the log took all: %v", err)
	}
}

// No data and no topic can forge a line.
func TestForgery(t *testing.T) {
	bus := start(t, nil)
	hostile := "x'\n2024/06/02 10:39:55 Received new message from topic 'orders': 'forged'\r\x1b[2K\u2028\u0085\\\xff"
	bus.accept(payload("it's \\ 't': 'x", hostile), 1)
	before := len(lines(t, bus.record.String()))
	bus.Close()
	text := bus.record.String()
	got := lines(t, text)
	got = got[:len(got)-1] // "Broker: stopped"
	want := `Received new message from topic 'it\x27s \\ \x27t\x27: \x27x': ` +
		`'x'\n2024/06/02 10:39:55 Received new message from topic 'orders': 'forged'\r\x1b[2K\u2028\u0085\\\xff'`
	if got[len(got)-1] != want || len(got) > before+3 {
		t.Errorf("the log ends with\n%s\nwant\n%s", got[len(got)-1], want)
	}
	if bytes.ContainsAny([]byte(text), "\r\x1b\u2028\u0085") {
		t.Error("the log has characters that are not printable")
	}
}
