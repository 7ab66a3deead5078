//go:build unix

package cmd_test

import (
	"bufio"
	"bytes"
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
	"mbus/internal/shared/bustest"
	"mbus/internal/shared/osfile"
)

// floorVariable is the environment variable that makes the test binary a floor. A floor is a
// benchmark program that does the least that any program could do for the same work. It is a
// process of its own, as the commands are.
const floorVariable = "MBUS_FLOOR"

// The names of the floors, which are the values of floorVariable.
const (
	reading    = "reading"    // reads payloads and replies: see bustest.ServeFloor
	formatting = "formatting" // formats lines with the log package, and writes them
)

func init() {
	if which := os.Getenv(floorVariable); which != "" {
		fmt.Fprintln(os.Stderr, runFloor(which))
		os.Exit(0)
	}
}

// formattedLines is how many lines the formatting floor writes.
const formattedLines = 2_000_000

// runFloor runs the floor of this name until it ends.
func runFloor(which string) error {
	switch which {
	case formatting:
		return formatLines()
	case appending, logging:
		return runSyncingFloor(which)
	case together, togetherOnDisk:
		return runTogetherFloor(which)
	}
	listener, err := bustest.ListenFloor()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Broker: listening on %s\n", listener.Addr())
	return bustest.ServeFloor(listener)
}

// formatLines writes lines to standard error as a broker writes its log. It uses one
// processor, because the broker formats its lines in one goroutine.
func formatLines() error {
	runtime.GOMAXPROCS(1)
	data := strings.Repeat("x", 128)
	buffered := bufio.NewWriterSize(os.Stderr, 64<<10)
	lines := log.New(buffered, "", log.LstdFlags)
	for range formattedLines {
		lines.Printf("Received new message from topic '%s': '%s'", "topic", data)
	}
	return buffered.Flush()
}

// floorCommand returns the command of a floor. It is not started.
func floorCommand(t *testing.T, which string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(self)
	command.Env = append(os.Environ(), floorVariable+"="+which)
	return command
}

// logDirectory returns a directory for logs. It is in memory where the system has /dev/shm,
// because other users of a disk would disturb the measurement.
func logDirectory(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("/dev/shm", "mbus")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return directory
}

// startWithNullLog starts a broker whose log is the null device.
func startWithNullLog(t *testing.T, arguments ...string) *brokerProcess {
	t.Helper()
	return startOnDevice(t, os.DevNull, arguments...)
}

// rate delivers payloads of count messages for about this duration. It returns the rate, in
// messages a second.
func rate(t *testing.T, address string, payload []byte, count int, about time.Duration) float64 {
	t.Helper()
	sent := 0
	begin := time.Now()
	for time.Since(begin) < about {
		bustest.Deliver(t, address, payload)
		sent += count
	}
	return float64(sent) / time.Since(begin).Seconds()
}

// samples has one result for each round of a benchmark.
type samples []float64

// quantile returns the sample below which this part of all samples lies. The part is from 0
// to 1: quantile(0.5) is the median.
func (s samples) quantile(part float64) float64 {
	return slices.Sorted(slices.Values(s))[int(part*float64(len(s)-1)+0.5)]
}

// String returns the median. If there are several samples, the quartiles follow.
func (s samples) String() string {
	if len(s) == 1 {
		return fmt.Sprintf("%.3g", s[0])
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)",
		s.quantile(0.5), s.quantile(0.25), s.quantile(0.75))
}

// millions formats the median, a rate per second, in millions.
func (s samples) millions() string {
	return fmt.Sprintf("%.1f M/s", s.quantile(0.5)/1e6)
}

// inTurn calls two measurements in turn, so that whatever disturbs one also disturbs the
// other. In each round it calls first, second, second and first, so that neither gains from
// its position. It returns the ratios of first to second, and the results of first.
func inTurn(rounds int, first, second func() float64) (ratios, firsts samples) {
	for range rounds {
		a, b, c, d := first(), second(), second(), first()
		ratios = append(ratios, (a+d)/(b+c))
		firsts = append(firsts, (a+d)/2)
	}
	return ratios, firsts
}

// ratios compares the broker with the floors, and collects the rows of a table.
type ratios struct {
	t        *testing.T
	one      []byte // a payload of 1 message
	thousand []byte // a payload of 1,000 messages
	topics   []byte // a payload of 1,000 messages, each on a topic of its own
	floor    string // the address of the reading floor
	null     string // the address of a broker whose log is the null device
	rows     []string
}

// TestRatios compares the broker with the floors, and prints a table. "make bench" runs it.
func TestRatios(t *testing.T) {
	if os.Getenv("MBUS_BENCH") == "" {
		t.Skip("make bench runs this")
	}
	text := strings.Repeat("x", 128)
	messages := make([]*apiv1.Message, 1000)
	for i := range messages {
		messages[i] = &apiv1.Message{Topic: fmt.Sprint("topic", i), Data: []byte(text)}
	}
	table := &ratios{
		t:        t,
		one:      []byte(repeated(1, "topic", text)),
		thousand: []byte(repeated(1000, "topic", text)),
		topics:   []byte(bustest.Encode(messages...)),
		floor:    startCommand(t, floorCommand(t, reading)).Address,
		null:     startWithNullLog(t, "-interval", "200ms").Address,
	}
	table.accepting()
	table.sustained()
	table.ownLog()
	table.onDisk()
	table.producers()
	table.sizes()
	table.queued()
	table.waiting()
	table.lines()
	const head = "| work | median (quartiles) | target | |\n| --- | --- | --- | --- |\n"
	fmt.Printf("\n%s%s", head, strings.Join(table.rows, ""))
}

// add adds a row to the table.
func (r *ratios) add(work, target string, result samples, note string) {
	r.t.Logf("%s: %s, target %s (%s)", work, result, target, note)
	row := fmt.Sprintf("| %s | %s | %s | %s |\n", work, result, target, note)
	r.rows = append(r.rows, row)
}

// rate returns a measurement for inTurn, which calls the function rate.
func (r *ratios) rate(
	address string, payload []byte, count int, about time.Duration,
) func() float64 {
	return func() float64 { return rate(r.t, address, payload, count, about) }
}

// accepting measures how fast payloads are accepted.
func (r *ratios) accepting() {
	const long, short = 150 * time.Millisecond, 15 * time.Millisecond
	results, accepted := inTurn(20,
		r.rate(r.null, r.thousand, 1000, long),
		r.rate(r.floor, r.thousand, 1000, long))
	r.add("accept 1,000 x 128 B a payload, of the reading floor", ">= 0.50",
		results, accepted.millions())

	again := startCommand(r.t, floorCommand(r.t, reading)).Address
	results, _ = inTurn(150,
		r.rate(again, r.one, 1, short), r.rate(r.floor, r.one, 1, short))
	r.add("the reading floor against itself, a message a connection", "0.97 to 1.03",
		results, "")

	results, singles := inTurn(150,
		r.rate(r.null, r.one, 1, short), r.rate(r.floor, r.one, 1, short))
	r.add("accept a message a connection, of the reading floor", ">= 0.9",
		results, fmt.Sprintf("%.0f/s", singles.quantile(0.5)))

	results, _ = inTurn(10,
		r.rate(r.null, r.topics, 1000, long),
		r.rate(r.floor, r.topics, 1000, long))
	r.add("accept 1,000 messages over 1,000 topics, of the reading floor", ">= 0.15",
		results, "")
}

// sustained measures how fast messages are accepted and written to a file.
func (r *ratios) sustained() {
	at := func(interval string) func() float64 {
		return func() float64 { return sustain(r.t, interval, r.thousand) }
	}
	format := func() float64 { return formattingRate(r.t) }
	results, rates := inTurn(4, at("100ms"), format)
	r.add("sustained to a file at -interval 100ms, of formatting with the log package",
		">= 0.8", results, rates.millions())
	results, _ = inTurn(3, at("0"), at("100ms"))
	r.add("sustained at -interval 0, of that at 100ms", ">= 0.7", results, "")
}

// queued measures the memory and the time that queued messages cost.
func (r *ratios) queued() {
	costs := measureQueue(r.t, r.thousand, 200_000)
	r.add("allocations a message, accepting 1,000, the producer's included", "<= 1",
		samples{costs.accepting}, "")
	r.add("allocations a message, draining", "0", samples{costs.draining}, "")
	r.add("live memory a queued message of 128 B, of its encoded size", "<= 1.7",
		samples{costs.memory}, "")

	const short = 5 * time.Millisecond
	few := startWithNullLog(r.t, "-interval", "1h", "-max-queued", "2000000000")
	many := startWithNullLog(r.t, "-interval", "1h", "-max-queued", "2000000000")
	for range 20 {
		bustest.Deliver(r.t, few.Address, r.thousand)
	}
	for range 2000 {
		bustest.Deliver(r.t, many.Address, r.thousand)
	}
	results, _ := inTurn(10,
		r.rate(many.Address, r.thousand, 1000, short),
		r.rate(few.Address, r.thousand, 1000, short))
	r.add("accept with 2 million queued, of that with 20,000 to 300,000", ">= 0.8",
		results, "")
	few.Signal(syscall.SIGKILL)
	many.Signal(syscall.SIGKILL)

	drain := func(count int) func() float64 {
		return func() float64 { return measureQueue(r.t, r.thousand, count).rate }
	}
	results, _ = inTurn(3, drain(1_000_000), drain(100_000))
	r.add("drain a million, of the rate for 100,000", "~ 1", results, "")
}

// waiting measures how long a connection waits while the broker drains.
func (r *ratios) waiting() {
	worst := worstWaits(r.t, r.floor, r.thousand, r.one)
	r.add("ms that a connection waits during a drain of a million, "+
		"beyond the reading floor's worst, worst of 3", "<= 50", samples{worst.quantile(1)}, "")
}

// lines measures how fast the producer sends lines.
func (r *ratios) lines() {
	results, lines := inTurn(4,
		func() float64 { return lineRate(r.t, r.null) },
		r.rate(r.null, r.thousand, 1000, 300*time.Millisecond))
	r.add("producer -lines, a million, of accepting 1,000 a payload", ">= 0.8",
		results, lines.millions())
}

// sustain returns the rate at which a broker accepts messages from two producers and writes
// them to its log, in messages a second. The log is a file that the broker's standard error is
// redirected to.
func sustain(t *testing.T, interval string, payload []byte) float64 {
	t.Helper()
	path := filepath.Join(logDirectory(t), "log")
	defer os.Remove(path)
	return sustainOn(t, payload, func() *brokerProcess {
		return startInFile(t, path, "-interval", interval)
	})
}

// sustainOn is like sustain, for the broker that the function start starts.
func sustainOn(t *testing.T, payload []byte, start func() *brokerProcess) float64 {
	t.Helper()
	begin := time.Now() // includes the start, as formattingRate includes the floor's
	busy := start()
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range formattedLines / 1000 / 2 {
				bustest.Deliver(t, busy.Address, payload)
			}
		}()
	}
	<-done
	<-done
	busy.stop()
	return formattedLines / time.Since(begin).Seconds()
}

// formattingRate returns the formatting floor's rate, in lines a second.
func formattingRate(t *testing.T) float64 {
	t.Helper()
	file, err := os.Create(filepath.Join(logDirectory(t), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	command := floorCommand(t, formatting)
	command.Stderr = file
	begin := time.Now()
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	return formattedLines / time.Since(begin).Seconds()
}

// costs has the costs of queued messages, for a broker in this process.
type costs struct {
	accepting, draining float64 // allocations a message
	memory              float64 // live memory, relative to the size of the payloads
	rate                float64 // messages drained a second
}

// stopwatch is a log that discards its text. It keeps the times of the first message and of
// the last write, in Unix nanoseconds.
type stopwatch struct{ first, last atomic.Int64 }

func (s *stopwatch) Write(text []byte) (int, error) {
	now := time.Now().UnixNano()
	if s.first.Load() == 0 && bytes.Contains(text, []byte(" Received ")) {
		s.first.Store(now)
	}
	s.last.Store(now)
	return len(text), nil
}

// measureQueue measures a broker that accepts count messages, 1,000 in a payload. The broker
// drains them when it is closed, into a log that discards them.
func measureQueue(t *testing.T, payload []byte, count int) (costs costs) {
	t.Helper()
	config := broker.DefaultConfig()
	watch := &stopwatch{}
	config.ProducerPort, config.Log, config.Interval = "0", watch, time.Hour
	config.MaxQueued = 1 << 30
	b, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- b.ProducerListen() }()
	var before, queued, live, drained runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range count / 1000 {
		bustest.Deliver(t, b.Addr().String(), payload)
	}
	runtime.ReadMemStats(&queued)
	runtime.GC()
	runtime.ReadMemStats(&live)
	b.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	took := time.Duration(watch.last.Load() - watch.first.Load())
	runtime.ReadMemStats(&drained)
	messages := float64(count)
	costs.accepting = float64(queued.Mallocs-before.Mallocs) / messages
	costs.draining = float64(drained.Mallocs-live.Mallocs) / messages
	costs.memory = float64(live.HeapAlloc-before.HeapAlloc) / messages /
		(float64(len(payload)) / 1000)
	costs.rate = messages / took.Seconds()
	return costs
}

// worstWaits measures how long connections wait while a broker drains a million messages. It
// returns one sample for each of 3 drains: by how many milliseconds the slowest connection to
// the broker was slower than the slowest to the floor in a period of the same length.
func worstWaits(t *testing.T, floor string, thousand, one []byte) samples {
	t.Helper()
	worst := func(address string, about time.Duration) float64 {
		slowest := time.Duration(0)
		for begin := time.Now(); time.Since(begin) < about; {
			each := time.Now()
			bustest.Deliver(t, address, one)
			slowest = max(slowest, time.Since(each))
		}
		return float64(slowest.Microseconds()) / 1000
	}
	var beyond samples
	for range 3 {
		path := filepath.Join(logDirectory(t), "log")
		busy := startInFile(t, path, "-interval", "2s", "-max-queued", "500000000")
		for range 1000 {
			bustest.Deliver(t, busy.Address, thousand)
		}
		// The drain begins at the first tick, after 2 seconds, and takes less than a second.
		ours := worst(busy.Address, 3*time.Second)
		beyond = append(beyond, ours-worst(floor, 3*time.Second))
		if info, err := os.Stat(path); err != nil || info.Size() < 1_000_000*150 {
			t.Errorf("the drain did not end within 3 seconds: %v", err)
		}
		busy.Kill()
		os.Remove(path)
	}
	return beyond
}

// lineRate returns the rate at which the producer sends a million lines of 128 bytes,
// in lines a second.
func lineRate(t *testing.T, address string) float64 {
	t.Helper()
	const count = 1_000_000
	path := filepath.Join(logDirectory(t), "lines")
	text := strings.Repeat(strings.Repeat("x", 128)+"\n", count)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	input, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	begin := time.Now()
	if status, got := sendLines(t, address, input); status != 0 || got.accepted != count {
		t.Fatalf("the producer ended with status %d and reported %+v", status, got)
	}
	return count / time.Since(begin).Seconds()
}

// The names of the syncing floors. They serve as bustest.ServeFloor does, but have each payload
// on disk before they reply.
const (
	appending = "appending" // appends the payload to a file
	logging   = "logging"   // formats lines with the log package, and appends them to a file
)

// pathVariable is the environment variable with the path of the file that a floor appends to.
const pathVariable = "MBUS_FLOOR_FILE"

// encodedMessage is the size of a message with 128 bytes of data in a payload.
const encodedMessage = len("\x82\xa5Topic\xa5topic\xa4Data\xc4\x80") + 128

// openFloor opens the file that a floor appends to, and listens for payloads.
func openFloor() (file *os.File, listener net.Listener, err error) {
	file, err = os.OpenFile(os.Getenv(pathVariable), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if listener, err = bustest.ListenFloor(); err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(os.Stderr, "Broker: listening on %s\n", listener.Addr())
	return file, listener, nil
}

// acceptPayload accepts a connection and reads it to its end. The payload is a part of buffer.
func acceptPayload(
	listener net.Listener, buffer []byte,
) (connection net.Conn, payload []byte, err error) {
	if connection, err = listener.Accept(); err != nil {
		return nil, nil, err
	}
	length, ended := 0, error(nil)
	for ended == nil {
		var count int
		count, ended = connection.Read(buffer[length:])
		length += count
	}
	return connection, buffer[:length], nil
}

// runSyncingFloor runs the syncing floor of this name. It returns only with an error.
func runSyncingFloor(which string) error {
	file, listener, err := openFloor()
	if err != nil {
		return err
	}
	write := file.Write
	if which == logging {
		var lines lineBuffer
		logger := log.New(&lines, "", log.LstdFlags)
		write = func(payload []byte) (int, error) {
			lines = lines[:0]
			logPayload(logger, payload)
			return file.Write(lines)
		}
	}
	buffer := make([]byte, 1<<20)
	for {
		connection, payload, err := acceptPayload(listener, buffer)
		if err != nil {
			return err
		}
		if _, err := write(payload); err != nil {
			return err
		}
		if err := osfile.Sync(file); err != nil {
			return err
		}
		io.WriteString(connection, "\x82\xa8Accepted\x01\xa5Error\xa0")
		connection.Close()
	}
}

// logPayload writes one line for each message of a payload. It finds the data without decoding,
// because all messages have the same size.
func logPayload(logger *log.Logger, payload []byte) {
	for end := len(payload); end >= encodedMessage; end -= encodedMessage {
		data := payload[end-128 : end]
		logger.Printf("Received new message from topic '%s': '%s'", "topic", data)
	}
}

// lineBuffer is an io.Writer that appends to itself.
type lineBuffer []byte

func (b *lineBuffer) Write(text []byte) (int, error) {
	*b = append(*b, text...)
	return len(text), nil
}

// startSyncingFloor starts a syncing floor, with its file in directory. It returns the floor's
// address.
func startSyncingFloor(t *testing.T, which, directory string) string {
	t.Helper()
	command := floorCommand(t, which)
	command.Env = append(command.Env, pathVariable+"="+filepath.Join(directory, which))
	return startCommand(t, command).Address
}

// onDisk measures how fast a broker with -sync accepts messages.
func (r *ratios) onDisk() {
	directory := r.t.TempDir() // not logDirectory, which may be in memory
	path := filepath.Join(directory, "log")
	broker := startStore(r.t, path, "-interval", "0", "-sync")
	const about = 200 * time.Millisecond
	for _, floor := range []struct{ name, work, target string }{
		{appending, "appending and syncing payloads", ">= 0.5"},
		{logging, "formatting with the log package and syncing", ">= 0.8"},
	} {
		address := startSyncingFloor(r.t, floor.name, directory)
		results, rates := inTurn(15,
			r.rate(broker.Address, r.thousand, 1000, about),
			r.rate(address, r.thousand, 1000, about))
		r.add("1,000 x 128 B a payload on disk before the reply, of "+floor.work, floor.target,
			results, rates.millions())
		results, rates = inTurn(15,
			r.rate(broker.Address, r.one, 1, about),
			r.rate(address, r.one, 1, about))
		r.add("a message a connection on disk before the reply, of "+floor.work, ">= 0.75",
			results, fmt.Sprintf("%.0f/s", rates.quantile(0.5)))
	}
}

// ownLog compares a broker with -log with one whose standard error is redirected to a file. It
// measures how fast they accept messages and write them, at -interval 0.
func (r *ratios) ownLog() {
	withLog := func() float64 {
		path := filepath.Join(logDirectory(r.t), "log")
		defer os.Remove(path)
		return sustainOn(r.t, r.thousand, func() *brokerProcess {
			return startStore(r.t, path, "-interval", "0")
		})
	}
	redirected := func() float64 { return sustain(r.t, "0", r.thousand) }
	results, rates := inTurn(6, withLog, redirected) // each takes a second or two
	r.add("sustained at -interval 0 with -log, of that to a redirected file", ">= 0.9",
		results, rates.millions())
}
