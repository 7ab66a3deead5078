//go:build unix

package cmd_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"mbus/internal/shared/bustest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// load writes numbered messages to a log and rotates it until end is called.
type load struct {
	store   logAndState
	stop    chan struct{}
	stopped chan int // receives the number of messages
}

// startLoad starts a load. Each message is its number, a space and text. After each pause the
// load writes up to most messages at once.
func startLoad(store logAndState, text string, most int, pause time.Duration) *load {
	load := &load{store, make(chan struct{}), make(chan int, 1)}
	go func() {
		number := 0
		for rotations := 0; ; {
			select {
			case <-load.stop:
				load.stopped <- number
				return
			case <-time.After(pause):
			}
			var messages []string
			for range 1 + rand.IntN(most) {
				messages = append(messages, fmt.Sprintf("%d %s", number, text))
				number++
			}
			store.add(messages...)
			if rand.IntN(20) == 0 {
				os.Rename(store.log, fmt.Sprintf("%s-%08d", store.log, rotations))
				rotations++
			}
		}
	}()
	return load
}

// end stops the load and returns the number of messages.
func (l *load) end() int {
	close(l.stop)
	return <-l.stopped
}

// repeats returns how many messages each run repeated, if it repeated any. The texts are the
// outputs of the runs, in turn. Each line starts with the number of its message. repeats fails
// the test if a message is missing or out of order.
func repeats(t *testing.T, count int, texts []string) (back []int) {
	t.Helper()
	next := 0
	for run, text := range texts {
		first := true
		for line := range strings.Lines(text) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			number, err := strconv.Atoi(word)
			if err != nil || !strings.HasSuffix(line, "\n") {
				t.Fatalf("run %d has delivered %.100q", run, line)
			}
			if first && number < next {
				back = append(back, next-number)
				next = number
			}
			if first = false; number != next {
				t.Fatalf("run %d has delivered message %d, want %d", run, number, next)
			}
			next++
		}
	}
	if next != count {
		t.Fatalf("%d messages were delivered, want %d", next, count)
	}
	return back
}

// runUntil starts a consumer and sends it a signal at a random moment. The consumer and its
// commands write to the file at path. runUntil returns the whole lines of the file.
func runUntil(t *testing.T, path string, signal syscall.Signal, arguments ...string) (text string) {
	t.Helper()
	output, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	command := consuming(arguments...)
	command.Stdout = output
	c := startConsumerCommand(t, command)
	pause(100 * time.Millisecond)
	c.Signal(signal)
	status := c.Wait() // also for a command that is left, which has standard error open
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tooEarly := status == -1 && len(written) == 0 // before it caught the signal
	stopped := signal == syscall.SIGKILL || status == 0 || tooEarly
	if !stopped || c.Stderr.String() != "" {
		t.Errorf("status %d: %s", status, c.Stderr)
	}
	return string(written[:bytes.LastIndexByte(written, '\n')+1])
}

// A consumer that is killed at any moment under load leaves no gap and keeps the order. With a
// command it repeats at most one message, and never delivers a part of one.
func TestConsumerKilled(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("x", 100_000)
	// For a part of a message the script would write another length.
	script := `data=$(cat) && echo "${data%% *} ${#data}"`
	for name, test := range map[string]struct {
		text      string
		most      int
		pause     time.Duration
		arguments []string
	}{
		"output":  {strings.Repeat("x", 1000), 20, time.Millisecond, nil},
		"command": {whole, 1, 10 * time.Millisecond, []string{"--", "sh", "-c", script}},
	} {
		t.Run(name, func(t *testing.T) {
			store := newLogAndState(t)
			load := startLoad(store, test.text, test.most, test.pause)
			path := store.state + ".output"
			var texts []string
			kills := bustest.LongOrShort(200, 20)
			for range kills {
				arguments := store.with(test.arguments...)
				texts = append(texts, runUntil(t, path, syscall.SIGKILL, arguments...))
			}
			count := load.end()
			_, rest, _ := consume(t, store.with(append([]string{"-end"}, test.arguments...)...)...)
			texts = append(texts, rest)
			again, most := 0, 0
			for _, back := range repeats(t, count, texts) {
				again, most = again+1, max(most, back)
			}
			if test.arguments != nil {
				if most > 1 {
					t.Errorf("%d messages were repeated after one kill", most)
				}
				verifyLengths(t, texts, len(whole))
			}
			t.Logf("figure: %d kills of a consumer with %s: %d messages, none missing, "+
				"all in order; %d runs repeated some, at most %d", kills, name, count, again, most)
		})
	}
}

// verifyLengths fails the test unless each line is a number and the length of its message: the
// digits, a space and size bytes.
func verifyLengths(t *testing.T, texts []string, size int) {
	t.Helper()
	for _, text := range texts {
		for line := range strings.Lines(text) {
			number, length, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if want := fmt.Sprint(len(number) + 1 + size); length != want {
				t.Fatalf("message %s came with %s bytes, want %s", number, length, want)
			}
		}
	}
}

// A consumer that is stopped at any moment under load delivers each message once.
func TestConsumerStopped(t *testing.T) {
	t.Parallel()
	for name, arguments := range map[string][]string{"output": nil, "command": {"--", "cat"}} {
		t.Run(name, func(t *testing.T) {
			store := newLogAndState(t)
			load := startLoad(store, "x\n", 2, 10*time.Millisecond)
			format := []string{"-format", "raw"}
			if arguments != nil {
				format = nil
			}
			var texts []string
			stops := bustest.LongOrShort(100, 10)
			for range stops {
				texts = append(texts, runUntil(t, store.state+".output", syscall.SIGTERM,
					store.with(append(format, arguments...)...)...))
			}
			count := load.end()
			// This has no deadline: there may be very many messages left, each for a command.
			last := consuming(store.with(append(append(format, "-end"), arguments...)...)...)
			rest, err := last.Output()
			if err != nil {
				t.Fatal(err)
			}
			if back := repeats(t, count, append(texts, string(rest))); len(back) > 0 {
				t.Errorf("runs repeated messages: %v", back)
			}
			t.Logf("figure: %d stops of a consumer with %s: %d messages, each once, in order",
				stops, name, count)
		})
	}
}

// A busy consumer saves its position every second: after a kill it repeats the messages of a
// second at most.
func TestConsumerKilledWhileBusy(t *testing.T) {
	for range bustest.LongOrShort(10, 1) {
		store := newLogAndState(t)
		messages := make([]string, 60_000)
		for number := range messages {
			messages[number] = fmt.Sprintf("%06d %s", number, strings.Repeat("x", 1000))
		}
		store.add(messages...)
		size := len(messages[0]) + 1
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		command := consuming(store.with()...)
		command.Stdout = writer
		c := startConsumerCommand(t, command)
		writer.Close()

		var came []time.Time // the time at which each message was read
		piece := make([]byte, 100*size)
		take := func() error {
			count, err := io.ReadFull(reader, piece)
			for range count / size {
				came = append(came, time.Now())
			}
			return err
		}
		random := time.Duration(rand.Int64N(int64(time.Second)))
		end := time.Now().Add(1200*time.Millisecond + random)
		for time.Now().Before(end) {
			if err := take(); err != nil {
				t.Fatalf("after %d messages: %v: %s", len(came), err, c.Stderr)
			}
			time.Sleep(10 * time.Millisecond)
		}
		killed := time.Now()
		c.Signal(syscall.SIGKILL)
		c.Wait()
		for take() == nil {
		}
		if len(came) == len(messages) {
			t.Fatal("the consumer was not busy to the end")
		}
		_, rest, _ := consume(t, store.with("-count", "1")...)
		first, err := strconv.Atoi(strings.SplitN(rest, " ", 2)[0])
		if err != nil || first > len(came) {
			t.Fatalf("the run after %d messages began with %.20q", len(came), rest)
		}
		worth := killed.Sub(came[min(first, len(came)-1)])
		t.Logf("figure: killed while busy after %d messages: %d repeated, %s's worth",
			len(came), len(came)-first, worth)
		if worth > 3*time.Second { // a second, and a stall of the machine
			t.Errorf("%s's worth of messages is repeated", worth)
		}
	}
}

// A broker is killed at any moment under load and started again, and its log is rotated. A
// consumer of the log delivers each of its messages once and in order.
func TestConsumerOfKilledBroker(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mbus.log")
	c := startConsumer(t, "-log", path, "-state", path+".state")
	address := bustest.FreeAddress(t)
	kills := bustest.LongOrShort(100, 10)
	var files []string // the oldest first
	for kill := range kills {
		broker := startStoreAt(t, address, path, "-interval", "0")
		finish := broker.load(2, 20)
		pause(30 * time.Millisecond)
		rotated := fmt.Sprintf("%s-%08d", path, kill)
		if err := os.Rename(path, rotated); err != nil {
			t.Fatal(err)
		}
		files = append(files, rotated)
		pause(1500 * time.Millisecond / time.Duration(1+rand.IntN(50)))
		broker.Kill()
		finish()
	}
	broker := startStoreAt(t, address, path, "-interval", "0") // cuts a torn end off
	if status, stderr := broker.produce("t", "last"); status != 0 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	broker.stop()

	var want strings.Builder
	for _, name := range append(files, path) {
		for _, message := range bustest.Messages(t, file(name).String()) {
			fmt.Fprintln(&want, message.Data) // it has no escapes
		}
	}
	bustest.Until(t, "the last message", func() bool {
		return strings.HasSuffix(c.Stdout.String(), "last\n")
	})
	c.Signal(syscall.SIGTERM)
	if status := c.Wait(); status != 0 {
		t.Errorf("status %d: %s", status, c.Stderr)
	}
	got := c.Stdout.String()
	if got != want.String() {
		t.Errorf("%d messages were delivered, want %d, or in another order",
			strings.Count(got, "\n"), strings.Count(want.String(), "\n"))
	}
	t.Logf("figure: a broker killed and its log rotated %d times: %d messages of the log, "+
		"each delivered once, in order; %d torn ends passed",
		kills, strings.Count(got, "\n"), strings.Count(c.Stderr.String(), "\n"))
}
