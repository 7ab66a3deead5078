//go:build linux

package cmd_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/broker"
)

// floorVariable has the test binary be a floor: a program that does the least that
// any could do for the same work, in a process of its own as the commands are.
const floorVariable = "MBUS_FLOOR"

// The floors.
const (
	reading    = "reading"    // reads each connection to its end, and answers
	formatting = "formatting" // formats lines with the standard log package, and writes them
)

func init() {
	if which := os.Getenv(floorVariable); which != "" {
		fmt.Fprintln(os.Stderr, beFloor(which))
		os.Exit(0)
	}
}

// formatted is how many lines the formatting floor writes.
const formatted = 2_000_000

// beFloor is the floor's program.
func beFloor(which string) error {
	if which == formatting {
		runtime.GOMAXPROCS(1)
		data := strings.Repeat("x", 128)
		buffered := bufio.NewWriterSize(os.Stderr, 64<<10)
		log := log.New(buffered, "", log.LstdFlags)
		for range formatted {
			log.Printf("Received new message from topic '%s': '%s'", "topic", data)
		}
		return buffered.Flush()
	}
	listening := net.ListenConfig{KeepAlive: -1} // as the broker listens
	listening.SetMultipathTCP(false)
	listener, err := listening.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Broker: listening on %s\n", listener.Addr())
	buffer := make([]byte, 64<<10)
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		for err == nil {
			_, err = connection.Read(buffer)
		}
		io.WriteString(connection, "\x82\xa8Accepted\x01\xa5Error\xa0")
		connection.Close()
	}
}

// floor returns a floor that is not started.
func floor(t *testing.T, which string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(self)
	command.Env = append(os.Environ(), floorVariable+"="+which)
	return command
}

// logs returns a directory for logs, in memory where there is one: a disk that is
// busy with something else is not what is measured.
func logs(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("/dev/shm", "mbus")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return directory
}

// head is a log of which only the first lines are looked at.
type head string

func (head head) String() string {
	file, err := os.Open(string(head))
	if err != nil {
		return ""
	}
	defer file.Close()
	text, _ := io.ReadAll(io.LimitReader(file, 1000))
	return string(text)
}

// startSilent starts a broker that logs into nothing.
func startSilent(t *testing.T, arguments ...string) *daemon {
	t.Helper()
	address := free(t)
	_, port, _ := net.SplitHostPort(address)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	command := command("broker", append([]string{"-pport", port}, arguments...)...)
	command.Stderr = null
	daemon := startLogged(t, command, constant("Broker: listening on "+address+"\n"))
	until(t, "a broker", func() bool {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	return daemon
}

// startBench starts a broker for a benchmark.
func startBench(t *testing.T, arguments ...string) *daemon {
	t.Helper()
	path := filepath.Join(logs(t), "log")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	command := command("broker", append([]string{"-pport", "0"}, arguments...)...)
	command.Stderr = file
	return startLogged(t, command, head(path))
}

// deliver sends payload and waits for the answer.
func deliver(t *testing.T, address string, payload []byte) {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	connection.Write(payload)
	connection.(*net.TCPConn).CloseWrite()
	var answer [256]byte
	count, err := connection.Read(answer[:])
	if err != nil || bytes.HasPrefix(answer[:count], []byte("\x82\xa8Accepted\x00")) {
		t.Fatalf("the answer is %q, error %v", answer[:count], err)
	}
	connection.Read(answer[:]) // the end
}

// rate delivers payloads of count messages for about a time, and returns how many
// messages a second that was.
func rate(t *testing.T, address string, payload []byte, count int, about time.Duration) float64 {
	t.Helper()
	sent := 0
	begin := time.Now()
	for time.Since(begin) < about {
		deliver(t, address, payload)
		sent += count
	}
	return float64(sent) / time.Since(begin).Seconds()
}

// samples are what the rounds of a benchmark gave.
type samples []float64

// quantile returns the sample below which that part of all lies.
func (samples samples) quantile(part float64) float64 {
	return slices.Sorted(slices.Values(samples))[int(part*float64(len(samples)-1)+0.5)]
}

// String returns the median and, if there are several, the middle half.
func (samples samples) String() string {
	if len(samples) == 1 {
		return fmt.Sprintf("%.3g", samples[0])
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", samples.quantile(0.5), samples.quantile(0.25), samples.quantile(0.75))
}

// row is a line of the table.
type row struct {
	work   string
	result samples
	target string
	note   string
}

// inTurn measures two things in turn, in many rounds, each before the other as
// often as after it: what disturbs one disturbs the other. It returns the ratios of
// the first to the second, and the first.
func inTurn(rounds int, first, second func() float64) (ratios, firsts samples) {
	for range rounds {
		before, b, c, after := first(), second(), second(), first()
		ratios, firsts = append(ratios, (before+after)/(b+c)), append(firsts, (before+after)/2)
	}
	return ratios, firsts
}

// TestRatios measures the broker beside the floors, and prints the table that the
// README has. make bench runs it.
func TestRatios(t *testing.T) {
	if os.Getenv("MBUS_BENCH") == "" {
		t.Skip("make bench runs this")
	}
	text := bytes.Repeat([]byte("x"), 128)
	thousand, one := repeated(t, 1000, "topic", text), repeated(t, 1, "topic", text)
	messages := make([]*apiv1.Message, 1000)
	for i := range messages {
		messages[i] = &apiv1.Message{Topic: fmt.Sprint("topic", i), Data: text}
	}
	topics := encode(t, messages)
	var table []row
	add := func(work, target string, result samples, note string) {
		table = append(table, row{work, result, target, note})
		t.Logf("%s: %s, target %s (%s)", work, result, target, note)
	}
	reader, again := startCommand(t, floor(t, reading)), startCommand(t, floor(t, reading))
	rates := func(address string, payload []byte, count int, about time.Duration) func() float64 {
		return func() float64 { return rate(t, address, payload, count, about) }
	}

	steady := startSilent(t, "-interval", "200ms")
	const long, short = 150 * time.Millisecond, 15 * time.Millisecond
	ratios, accepted := inTurn(20, rates(steady.address(), thousand, 1000, long), rates(reader.address(), thousand, 1000, long))
	add("accept 1,000 x 128 B a payload, of the reading floor", ">= 0.50", ratios, fmt.Sprintf("%.1f M/s", accepted.quantile(0.5)/1e6))
	ratios, _ = inTurn(150, rates(again.address(), one, 1, short), rates(reader.address(), one, 1, short))
	add("the reading floor against itself, a message a connection", "0.97 to 1.03", ratios, "")
	ratios, singles := inTurn(150, rates(steady.address(), one, 1, short), rates(reader.address(), one, 1, short))
	add("accept a message a connection, of the reading floor", ">= 0.9", ratios, fmt.Sprintf("%.0f/s", singles.quantile(0.5)))
	ratios, _ = inTurn(10, rates(steady.address(), topics, 1000, long), rates(reader.address(), topics, 1000, long))
	add("accept 1,000 messages over 1,000 topics, of the reading floor", ">= 0.15", ratios, "")

	sustained := func(interval string) func() float64 {
		return func() float64 { return sustain(t, interval, thousand) }
	}
	ratios, sustainedRates := inTurn(4, sustained("100ms"), func() float64 { return format(t) })
	add("sustained to a file at -interval 100ms, of formatting with the log package", ">= 0.8", ratios, fmt.Sprintf("%.1f M/s", sustainedRates.quantile(0.5)/1e6))
	ratios, _ = inTurn(3, sustained("0"), sustained("100ms"))
	add("sustained at -interval 0, of that at 100ms", ">= 0.7", ratios, "")

	costs := queueing(t, thousand, 200_000)
	add("allocations a message, accepting 1,000, the sender's included", "<= 1", samples{costs.accepting}, "")
	add("allocations a message, draining", "0", samples{costs.draining}, "")
	add("live memory a queued message of 128 B, of its encoded size", "<= 1.7", samples{costs.memory}, "")

	few, many := startSilent(t, "-interval", "1h", "-max-queued", "2000000000"), startSilent(t, "-interval", "1h", "-max-queued", "2000000000")
	for range 20 {
		deliver(t, few.address(), thousand)
	}
	for range 2000 {
		deliver(t, many.address(), thousand)
	}
	ratios, _ = inTurn(10, rates(many.address(), thousand, 1000, 5*time.Millisecond), rates(few.address(), thousand, 1000, 5*time.Millisecond))
	add("accept with 2 million queued, of that with 20,000 to 300,000", ">= 0.8", ratios, "")
	few.signal(syscall.SIGKILL)
	many.signal(syscall.SIGKILL)
	ratios, _ = inTurn(3, func() float64 { return queueing(t, thousand, 1_000_000).rate }, func() float64 { return queueing(t, thousand, 100_000).rate })
	add("drain a million, of the rate for 100,000", "~ 1", ratios, "")

	worst := worstWaits(t, reader.address(), thousand, one)
	add("ms that a connection waits during a drain of a million, beyond the reading floor's worst, worst of 3", "<= 50", samples{worst.quantile(1)}, "")

	ratios, lines := inTurn(4, func() float64 { return lineRate(t, steady.address()) }, rates(steady.address(), thousand, 1000, 300*time.Millisecond))
	add("producer -lines, a million, of accepting 1,000 a payload", ">= 0.8", ratios, fmt.Sprintf("%.1f M/s", lines.quantile(0.5)/1e6))

	fmt.Printf("\n| work | median (middle half) | target | |\n| --- | --- | --- | --- |\n")
	for _, row := range table {
		fmt.Printf("| %s | %s | %s | %s |\n", row.work, row.result, row.target, row.note)
	}
}

// sustain returns at what rate a broker takes messages, from two producers, and
// has all of them in its log.
func sustain(t *testing.T, interval string, payload []byte) float64 {
	t.Helper()
	begin := time.Now() // a floor has to start, too
	broker := startBench(t, "-interval", interval)
	defer os.Remove(string(broker.log.(head)))
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range formatted / 1000 / 2 {
				deliver(t, broker.address(), payload)
			}
		}()
	}
	<-done
	<-done
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Fatalf("the broker's status is %d", status)
	}
	return formatted / time.Since(begin).Seconds()
}

// format returns the formatting floor's rate.
func format(t *testing.T) float64 {
	t.Helper()
	file, err := os.Create(filepath.Join(logs(t), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	command := floor(t, formatting)
	command.Stderr = file
	begin := time.Now()
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	return formatted / time.Since(begin).Seconds()
}

// costs are what queued messages cost a broker in this process.
type costs struct {
	accepting, draining float64 // allocations a message
	memory              float64 // live, of what a message has in its payload
	rate                float64 // of the drain, messages a second
}

// stopwatch is a log that keeps nothing but when it was written first and last, in
// Unix nanoseconds.
type stopwatch struct{ first, last atomic.Int64 }

func (stopwatch *stopwatch) Write(text []byte) (int, error) {
	now := time.Now().UnixNano()
	stopwatch.first.CompareAndSwap(0, now)
	stopwatch.last.Store(now)
	return len(text), nil
}

// queueing measures a broker that takes payloads of 1,000 messages, count of them,
// and drains them into nothing at its end.
func queueing(t *testing.T, payload []byte, count int) (costs costs) {
	t.Helper()
	config := broker.DefaultConfig()
	log := &stopwatch{}
	config.ProducerPort, config.Log, config.Interval, config.MaxQueued = "0", log, time.Hour, 1<<30
	bus, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- bus.ProducerListen() }()
	var before, queued, live, drained runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range count / 1000 {
		deliver(t, bus.Addr().String(), payload)
	}
	runtime.ReadMemStats(&queued)
	runtime.GC()
	runtime.ReadMemStats(&live)
	time.Sleep(100 * time.Millisecond) // after the notices
	log.first.Store(0)
	bus.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	took := time.Duration(log.last.Load() - log.first.Load())
	runtime.ReadMemStats(&drained)
	messages := float64(count)
	costs.accepting = float64(queued.Mallocs-before.Mallocs) / messages
	costs.draining = float64(drained.Mallocs-live.Mallocs) / messages
	costs.memory = float64(live.HeapAlloc-before.HeapAlloc) / messages / (float64(len(payload)) / 1000)
	costs.rate = messages / took.Seconds()
	return costs
}

// worstWaits returns, for each of some drains of a million messages, how much
// longer the slowest of the connections took that came meanwhile than the slowest
// to the reading floor in as much time, in milliseconds.
func worstWaits(t *testing.T, floor string, thousand, one []byte) samples {
	t.Helper()
	worst := func(address string, about time.Duration) float64 {
		slowest := time.Duration(0)
		for begin := time.Now(); time.Since(begin) < about; {
			each := time.Now()
			deliver(t, address, one)
			slowest = max(slowest, time.Since(each))
		}
		return float64(slowest.Microseconds()) / 1000
	}
	var beyond samples
	for range 3 {
		broker := startBench(t, "-interval", "2s", "-max-queued", "500000000")
		for range 1000 {
			deliver(t, broker.address(), thousand)
		}
		// The first tick comes after two seconds, and the drain is over after
		// another.
		ours := worst(broker.address(), 3*time.Second)
		beyond = append(beyond, ours-worst(floor, 3*time.Second))
		if info, err := os.Stat(string(broker.log.(head))); err != nil || info.Size() < 1_000_000*150 {
			t.Errorf("the drain is not over: %v", err)
		}
		broker.signal(syscall.SIGKILL)
		broker.wait()
		os.Remove(string(broker.log.(head)))
	}
	return beyond
}

// lineRate returns at what rate the producer sends a million lines of 128 bytes.
func lineRate(t *testing.T, address string) float64 {
	t.Helper()
	const count = 1_000_000
	path := filepath.Join(logs(t), "lines")
	if err := os.WriteFile(path, bytes.Repeat(append(bytes.Repeat([]byte("x"), 128), '\n'), count), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	input, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	begin := time.Now()
	if status, said := sendLines(t, address, input); status != 0 || said.accepted != count {
		t.Fatalf("status %d, %+v", status, said)
	}
	return count / time.Since(begin).Seconds()
}
