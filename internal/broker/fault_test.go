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
	"mbus/internal/shared/bustest"
	"mbus/internal/shared/logline"
)

// faulty is a log that accepts as many bytes as its budget, and then fails with err until the
// test sets another budget.
type faulty struct {
	bustest.Record
	budget atomic.Int64
	err    error
	hook   func() // if not nil, called when Write fails
}

// endless is a budget that no log uses up.
const endless = 1 << 30

func (f *faulty) Write(text []byte) (int, error) {
	taken := min(int64(len(text)), f.budget.Load())
	f.budget.Add(-taken)
	f.Record.Write(text[:taken])
	if taken < int64(len(text)) {
		if f.hook != nil {
			f.hook()
		}
		return int(taken), f.err
	}
	return int(taken), nil
}

// full is the error of a write to a full disk.
var full error = &os.PathError{Op: "write", Path: "log", Err: syscall.ENOSPC}

// faultyLog makes a faulty log with the error err the log of config. It does not fail before
// the test sets a budget.
func faultyLog(config *BrokerConfig, err error) *faulty {
	log := &faulty{err: err}
	log.budget.Store(endless)
	config.Log = log
	return log
}

// outageLine is the beginning of the line that reports the end of an outage.
const outageLine = "Broker: the log took nothing for "

// A message whose line was not written stays queued. After a short write, the next write
// begins with the rest of the line, whatever byte the line was torn at.
func TestShortWrites(t *testing.T) {
	// One line is longer than a write, and has characters of several bytes.
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
			continue // one place in the middle of the long line is as good as another
		}
		shortWrite(t, budget, texts, wantLines)
	}
}

// shortWrite drains texts into a log that accepts budget bytes, and then into one that works. It
// fails the test unless the log has these lines.
func shortWrite(t *testing.T, budget int, texts, wantLines []string) {
	t.Helper()
	var log *faulty
	broker := listen(t, func(config *BrokerConfig) { log = faultyLog(config, full) })
	defer broker.Close()
	queueTexts(t, broker.Broker, "t", texts...)
	log.budget.Store(int64(budget))
	if err := broker.Drain(); !errors.Is(err, syscall.ENOSPC) || len(log.String()) != budget {
		t.Fatalf("%d bytes: wrote %d, error %v", budget, len(log.String()), err)
	}
	written := max(strings.Count(log.String(), "\n")-2, 0) // without the notices
	if want := queuedBytes(texts[written:]); broker.used != want ||
		unwritten(broker.Broker) != len(texts)-written {
		t.Fatalf("%d bytes: %d messages, %d bytes count as queued, want %d, %d", budget,
			unwritten(broker.Broker), broker.used, len(texts)-written, want)
	}
	log.budget.Store(endless)
	// The line about the outage follows in another write.
	if err := errors.Join(broker.Drain(), broker.drainer.drain(false)); err != nil {
		t.Fatal(err)
	}
	got := bustest.Lines(t, log.String())
	if len(got) != len(wantLines)+1 || !slices.Equal(got[:len(wantLines)], wantLines) ||
		!strings.HasPrefix(got[len(wantLines)], outageLine) {
		t.Fatalf("%d bytes: %d lines, not those that were wanted", budget, len(got))
	}
	if unwritten(broker.Broker) != 0 || broker.used != topicBytes("t") {
		t.Fatalf("%d bytes: %d messages, %d bytes still count",
			budget, unwritten(broker.Broker), broker.used)
	}
}

// queuedBytes returns what texts count as queued on the topic t.
func queuedBytes(texts []string) int {
	sum := topicBytes("t")
	for _, text := range texts {
		sum += messageOverhead + len("t") + len(text)
	}
	return sum
}

// A short write without an error breaks the rules of io.Writer. The broker treats it as a
// failure.
func TestSilentShortWrite(t *testing.T) {
	var log *faulty
	broker := listen(t, func(config *BrokerConfig) { log = faultyLog(config, nil) })
	defer broker.Close()
	queueTexts(t, broker.Broker, "t", "")
	log.budget.Store(0)
	if err := broker.Drain(); err != io.ErrShortWrite || unwritten(broker.Broker) != 1 {
		t.Errorf("Drain returns %v, %d messages are queued", err, unwritten(broker.Broker))
	}
}

// Messages that can't be written stay in front of those that are queued later.
func TestFailureKeepsOrder(t *testing.T) {
	var log *faulty
	broker := listen(t, func(config *BrokerConfig) { log = faultyLog(config, full) })
	defer broker.Close()
	for _, topic := range []string{"a", "b"} {
		queueTexts(t, broker.Broker, topic, strings.Repeat("x", gatherSize))
	}
	log.budget.Store(100)
	log.hook = func() { queueTexts(t, broker.Broker, "c", "") }
	if err := broker.Drain(); err == nil {
		t.Fatal("the log did not fail")
	}
	log.budget.Store(endless)
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	var order string
	for _, message := range bustest.Messages(t, log.String()) {
		order += message.Topic
	}
	if order != "abc" {
		t.Errorf("the order is %s", order)
	}
}

// The buffer grows once for the line of a long message, and not with each try to write it. Its
// memory is freed afterwards.
func TestLongMessageWithAFullDisk(t *testing.T) {
	var log *faulty
	broker := listen(t, func(config *BrokerConfig) { log = faultyLog(config, full) })
	defer broker.Close()
	queueTexts(t, broker.Broker, "t", string(make([]byte, 100*gatherSize)))
	log.budget.Store(gatherSize)
	for range 50 {
		if err := broker.Drain(); err == nil {
			t.Fatal("the log did not fail")
		}
	}
	const want = 100*gatherSize*len(`\x00`) + 64<<10 // with the notices, rounded up
	if got := cap(broker.drainer.log.buffer); got > want {
		t.Errorf("the buffer has %d bytes, want at most %d", got, want)
	}
	log.budget.Store(endless)
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	if got := cap(broker.drainer.log.buffer); got > keptBuffer {
		t.Errorf("the buffer keeps %d bytes", got)
	}
}

// While the disk is full, messages are accepted and kept. Once there is room, they are
// written, and the log reports the outage.
func TestFullDisk(t *testing.T) {
	var log *faulty
	broker := start(t, func(config *BrokerConfig) {
		log = faultyLog(config, full)
		config.Interval = 5 * time.Millisecond
	})
	log.budget.Store(30)
	texts := bustest.Numbers(0, 499)
	for _, text := range texts {
		broker.Accept(bustest.Payload("t", text), 1)
	}
	bustest.Until(t, "a full disk", func() bool { return log.budget.Load() == 0 })
	if strings.Contains(log.String(), "Received") {
		t.Error("the disk was not full")
	}
	log.budget.Store(endless)
	broker.Expect("Received new message from topic 't': '499'")
	bustest.Until(t, "the end of the outage", func() bool {
		return strings.Contains(log.String(), ": write log: no space left on device\n")
	})
	broker.Close()
	if got := broker.Received("t"); !slices.Equal(got, texts) {
		t.Errorf("logged %q", got)
	}
	if got := strings.Count(log.String(), outageLine); got != 1 {
		t.Errorf("the log reports the outage %d times", got)
	}
}

// A log that is gone ends the broker. Its error says how many messages were not written.
func TestClosedPipe(t *testing.T) {
	for _, gone := range []error{
		&os.PathError{Op: "write", Path: "log", Err: syscall.EPIPE}, io.ErrClosedPipe, os.ErrClosed,
		&os.PathError{Op: "write", Path: "log", Err: syscall.EIO}, // a terminal that hung up
	} {
		var log *faulty
		broker := listen(t, func(config *BrokerConfig) { log = faultyLog(config, gone) })
		broker.serve()
		broker.Expect("Broker: listening on " + broker.Address)
		log.budget.Store(0)
		broker.Send(bustest.Payload("t", "1"))
		err := <-broker.ended
		if !errors.Is(err, gone) || !strings.HasPrefix(err.Error(), "messages not written: 1: ") {
			t.Errorf("ProducerListen returns %v", err)
		}
		if _, err := net.Dial("tcp", broker.Address); err == nil {
			t.Error("it still listens")
		}
		broker.Close()
	}
}

// A payload that waits for room is refused as soon as the log is gone.
func TestWaitingWhileTheLogGoes(t *testing.T) {
	var log *faulty
	broker := listen(t, func(config *BrokerConfig) {
		log = faultyLog(config, syscall.EPIPE)
		config.MaxQueued, config.Timeout = 3*gatherSize, time.Minute
	})
	broker.serve()
	long := strings.Repeat("x", gatherSize) // one write takes one message, so one stays queued
	broker.Accept(bustest.Payload("t", long, long), 2)
	broker.Expect("2 new messages dispatched on topic t")
	log.budget.Store(0)
	if reply := broker.Send(bustest.Payload("t", long, long)); reply.Error != apiv1.LogGone {
		t.Errorf("the reply is %+v", *reply)
	}
	if err := <-broker.ended; !errors.Is(err, syscall.EPIPE) {
		t.Errorf("ProducerListen returns %v", err)
	}
	broker.Close()
}

// After an error of input or output the broker tries again if the log is a regular file.
func TestDiskError(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if log := newLog(file, &store{}); log.isPermanent(syscall.EIO) {
		t.Error("EIO of a regular file counts as permanent")
	}
}

// pieces is a log that keeps the text of each write.
type pieces []string

func (p *pieces) Write(text []byte) (int, error) {
	*p = append(*p, string(text))
	return len(text), nil
}

func (p *pieces) String() string { return strings.Join(*p, "") }

// Each write ends with the end of a line, unless a part of one line fills the write.
func TestWritesEndWithALine(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, longest := range []int{100, 3000, 3 * pipeWrite, 3 * gatherSize} {
		log := &pieces{}
		broker := listen(t, func(config *BrokerConfig) { config.Log = log })
		for range 300 {
			queueTexts(t, broker.Broker, "t", strings.Repeat("\n", random.IntN(longest)))
			broker.notify("a notice")
		}
		if err := broker.Drain(); err != nil {
			t.Fatal(err)
		}
		for i, piece := range *log {
			size, hasEnd := len(piece), strings.Contains(piece, "\n")
			if size > pipeWrite || hasEnd != strings.HasSuffix(piece, "\n") ||
				!hasEnd && size < pipeWrite {
				t.Fatalf("write %d of %d bytes is %.50q...%.50q",
					i, size, piece, piece[max(0, size-50):])
			}
		}
		if got := bustest.Lines(t, log.String()); len(got) != 901 {
			t.Errorf("%d lines were written, want 901", len(got))
		}
		broker.Close()
	}
}

// stuck is a log whose Write blocks until released is closed.
type stuck struct {
	bustest.Record
	released chan struct{}
}

func (s *stuck) Write(text []byte) (int, error) {
	<-s.released
	return s.Record.Write(text)
}

// While nobody reads the log, the broker accepts messages until the queue is full. It writes all
// messages that it has accepted, and none that it has refused.
func TestStuckLog(t *testing.T) {
	log := &stuck{released: make(chan struct{})}
	broker := listen(t, func(config *BrokerConfig) {
		config.Log = log
		config.MaxQueued = 100_000
		config.Timeout = time.Second
	})
	broker.serve()
	var want []string
	for i := 0; ; i++ {
		text := fmt.Sprint(i)
		reply := broker.Send(bustest.Payload("t", text))
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
	broker.Accept("", 0) // zero messages always fit
	close(log.released)
	bustest.Until(t, "room", func() bool {
		return broker.Send(bustest.Payload("t", "after")).Accepted == 1
	})
	broker.Close()
	if err := <-broker.ended; err != nil {
		t.Error(err)
	}
	if got := broker.Received("t"); !slices.Equal(got, append(want, "after")) {
		t.Errorf("logged %d messages, want %d and one more", len(got), len(want))
	}
}

// A broker that stops waits for a log whose writes block, but not for ever.
func TestCloseWithAStuckLog(t *testing.T) {
	log := &stuck{released: make(chan struct{})}
	defer close(log.released)
	broker := listen(t, func(config *BrokerConfig) {
		config.Log = log
		config.Timeout = time.Second
	})
	broker.serve()
	broker.Accept(bustest.Payload("t", "1", "2"), 2)
	begin := time.Now()
	broker.Close()
	const want = "messages not written: 2: the log took nothing for 1s"
	if err := <-broker.ended; err == nil || err.Error() != want {
		t.Errorf("ProducerListen returns %v", err)
	}
	if took := time.Since(begin); took < time.Second || took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
}

// A broker that stops waits for a log whose writes fail, but not for ever.
func TestCloseWithAFullDisk(t *testing.T) {
	var log *faulty
	broker := listen(t, func(config *BrokerConfig) {
		log = faultyLog(config, full)
		config.Timeout = time.Second
	})
	broker.serve()
	log.budget.Store(0)
	broker.Accept(bustest.Payload("t", "1", "2"), 2)
	broker.Close()
	const want = "messages not written: 2: the log took nothing for 1s"
	if err := <-broker.ended; err == nil || err.Error() != want {
		t.Errorf("ProducerListen returns %v", err)
	}
	log.budget.Store(endless) // ends the ticker goroutine
	bustest.Until(t, "the end of the ticker goroutine", func() bool {
		broker.mutex.Lock()
		defer broker.mutex.Unlock()
		return broker.Broker.queues.ended
	})
}

// sluggish is a log that pauses before each write, in proportion to its size.
type sluggish struct {
	bustest.Record
	pause time.Duration // for 4 KiB
}

func (s *sluggish) Write(text []byte) (int, error) {
	time.Sleep(s.pause * time.Duration(len(text)) / (4 << 10))
	return s.Record.Write(text)
}

// A broker that stops writes all messages to a slow log, however long that takes, as long as
// each write ends within the time-out.
func TestStopWithASlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &sluggish{pause: time.Second}
		broker := listen(t, func(config *BrokerConfig) {
			config.Log = log
			config.Timeout = 3 * time.Second // less than one write of 64 KiB would take
		})
		defer broker.Close()
		for range 3 {
			queueTexts(t, broker.Broker, "t", strings.Repeat("x", gatherSize))
		}
		loopEnded := make(chan struct{})
		close(loopEnded)
		result := make(chan error, 1)
		go func() { result <- broker.drainer.tickLoop(loopEnded) }()
		if err := broker.drainer.awaitEnd(result); err != nil {
			t.Error(err)
		}
		if got := broker.Received("t"); len(got) != 3 {
			t.Errorf("%d of 3 messages were logged", len(got))
		}
	})
}

// At interval 0 an acknowledged message is in the log.
func TestIntervalZero(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.Interval = 0 })
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprint(i), "and more")
		broker.Accept(bustest.Payload("t", want[2*i:]...), 2)
		if got := broker.Received("t"); !slices.Equal(got, want) {
			t.Fatalf("message %d is acknowledged and not in the log", i)
		}
	}
}

// At interval 0 a payload that can't be written in time is not acknowledged, and its
// messages stay queued.
func TestIntervalZeroWithAFullDisk(t *testing.T) {
	var log *faulty
	broker := start(t, func(config *BrokerConfig) {
		log = faultyLog(config, full)
		config.Interval = 0
		config.Timeout = time.Second
	})
	log.budget.Store(10)
	connection := broker.Dial()
	connection.End(bustest.Payload("t", "kept"))
	if answer, err := io.ReadAll(connection); err != nil || len(answer) > 0 {
		t.Errorf("the answer is %q, error %v", answer, err)
	}
	log.budget.Store(endless)
	// The broker tries again without another payload.
	broker.Expect("Received new message from topic 't': 'kept'")
	broker.Expect(fmt.Sprintf(gaveUpLine, connection.LocalAddr()))
	broker.Accept(bustest.Payload("t", "next"), 1)
	log.budget.Store(0)
	connection = broker.Dial()
	connection.End(bustest.Payload("t", "last"))
	io.ReadAll(connection)
	broker.Accept("", 0) // a payload without messages does not wait for those of others
	log.budget.Store(endless)
	broker.Expect("Received new message from topic 't': 'last'")
	if got := broker.Received("t"); !slices.Equal(got, []string{"kept", "next", "last"}) {
		t.Errorf("logged %q", got)
	}
}

// When the queue is full, the broker drains before the next tick, and the connection waits for
// that.
func TestFullQueueIsDrained(t *testing.T) {
	broker := start(t, func(config *BrokerConfig) { config.MaxQueued = 10_000 })
	texts := bustest.Numbers(0, 999)
	for _, text := range texts {
		broker.Accept(bustest.Payload("t", text), 1)
	}
	broker.Close()
	if got := broker.Received("t"); !slices.Equal(got, texts) {
		t.Errorf("logged %d messages", len(got))
	}
}

// An empty topic is forgotten when a payload needs its room. This needs no drain.
func TestRoomOfAnEmptyTopic(t *testing.T) {
	broker := listen(t, func(config *BrokerConfig) {
		config.MaxQueued = 700 // room for one topic and message
	})
	defer broker.Close()
	queueTexts(t, broker.Broker, "t", "1")
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	queueTexts(t, broker.Broker, "u", "2")
}

// A payload that does not fit into an empty queue is refused at once. One that just fits is
// accepted.
func TestPayloadLargerThanTheQueue(t *testing.T) {
	twoTopics := bustest.Payload("a", "1") + bustest.Payload("b", "1")
	for name, messages := range map[string]string{
		"one message": bustest.Payload("topic", strings.Repeat("x", 1000)),
		"one topic":   bustest.Payload("topic", bustest.Numbers(0, 99)...),
		"two topics":  "\x94" + twoTopics + twoTopics,
	} {
		decoded, err := listen(t, nil).decoder.Decode([]byte(messages))
		if err != nil {
			t.Fatal(err)
		}
		_, need := sharesOf(decoded)
		broker := start(t, func(config *BrokerConfig) {
			config.MaxQueued = need
			config.Timeout = time.Minute
		})
		for range 3 {
			broker.Accept(messages, len(decoded))
			broker.mutex.Lock()
			if got := broker.used; got != need {
				t.Errorf("%s: %d bytes count, not %d", name, got, need)
			}
			broker.mutex.Unlock()
		}
		tight := start(t, func(config *BrokerConfig) {
			config.MaxQueued = need - 1
			config.Timeout = time.Minute
		})
		tight.Refuse(messages, fmt.Sprintf(
			"the payload is too large: more than an empty queue takes (-max-queued %d)", need-1))
	}
}

// hooked is a log that calls a function before each write of a message.
type hooked struct {
	bustest.Record
	hook func()
}

func (h *hooked) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte("Received")) {
		h.hook()
	}
	return h.Record.Write(text)
}

// A notice is written during a long drain, not after it.
func TestNoticesDuringADrain(t *testing.T) {
	log := &hooked{hook: func() {}}
	broker := listen(t, func(config *BrokerConfig) { config.Log = log })
	defer broker.Close()
	long := strings.Repeat("x", gatherSize)
	queueTexts(t, broker.Broker, "t", slices.Repeat([]string{long}, 10)...)
	var once sync.Once
	log.hook = func() { once.Do(func() { broker.notify("in between") }) }
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	got := bustest.Lines(t, log.String())
	// The first lines are two notices of the payload, and a message.
	if at := slices.Index(got, "in between"); at != 3 || len(got) != 13 {
		t.Errorf("the notice is line %d of %d", at+1, len(got))
	}
}

// The memory of notices is bounded. Those beyond the bound are dropped and counted.
func TestNoticesAreBounded(t *testing.T) {
	broker := listen(t, nil)
	defer broker.Close()
	line := strings.Repeat("x", 100)
	const count = 20_000
	for range count {
		broker.notify(line)
	}
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	got := bustest.Lines(t, broker.Log.String())
	kept := len(got) - 1
	want := fmt.Sprint("Broker: log lines left out while the log did not keep up: ", count-kept)
	if size := len(stamped(line)); kept != maxNotices/size+1 || got[kept] != want {
		t.Errorf("%d lines, the last is %s, want %s", len(got), got[kept], want)
	}
	broker.notify("once")
	broker.notify("again")
	if err := broker.Drain(); err != nil || !strings.HasSuffix(broker.Log.String(), " again\n") {
		t.Errorf("a notice after the dropped ones is not in the log, error %v", err)
	}
}

// stamped returns a line of the log.
func stamped(line string) string {
	return logline.StampFormat + line + "\n"
}

// While the log fails, its buffer has at most as many notices as may wait for the ticker goroutine.
func TestNoticesOfAFailingLogAreBounded(t *testing.T) {
	var log *faulty
	broker := listen(t, func(config *BrokerConfig) { log = faultyLog(config, full) })
	defer broker.Close()
	log.budget.Store(0)
	line := strings.Repeat("x", 100)
	for range 3 {
		for range 20_000 {
			broker.notify(line)
		}
		if err := broker.Drain(); err == nil {
			t.Fatal("the log did not fail")
		}
	}
	log.budget.Store(endless)
	if err := broker.Drain(); err != nil {
		t.Fatal(err)
	}
	kept := strings.Count(log.String(), " "+line+"\n")
	if size := len(stamped(line)); kept != 2*(maxNotices/size+1) {
		t.Errorf("%d notices of %d bytes were kept", kept, size)
	}
	broker.notify("again")
	if err := broker.Drain(); err != nil || !strings.HasSuffix(log.String(), " again\n") {
		t.Errorf("a notice after the outage is not in the log, error %v", err)
	}
}

// No data and no topic can forge a line.
func TestForgery(t *testing.T) {
	broker := start(t, nil)
	const forged = "2024/06/02 10:39:55 Received new message from topic 'orders': 'forged'"
	const hostile = "x'\n" + forged + "\r\x1b[2K\u2028\u0085\\\xff"
	broker.Accept(bustest.Payload("it's \\ 't': 'x", hostile), 1)
	before := len(bustest.Lines(t, broker.Log.String()))
	broker.Close()
	text := broker.Log.String()
	got := bustest.Lines(t, text)
	got = got[:len(got)-1] // "Broker: stopped"
	want := `Received new message from topic 'it\x27s \\ \x27t\x27: \x27x': ` +
		`'x'\n` + forged + `\r\x1b[2K\u2028\u0085\\\xff'`
	if got[len(got)-1] != want || len(got) > before+3 {
		t.Errorf("the log ends with\n%s\nwant\n%s", got[len(got)-1], want)
	}
	if strings.ContainsAny(text, "\r\x1b\u2028\u0085") {
		t.Error("the log has characters that are not printable")
	}
}
