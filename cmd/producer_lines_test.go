//go:build unix

package cmd_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/escape"
)

// countDifferences returns how many messages of want are missing in got, and how many messages
// of got are repeated or not in want.
func countDifferences(got, want []string) (lost, extra int) {
	missing := make(map[string]int)
	for _, message := range want {
		missing[message]++
	}
	for _, message := range got {
		missing[message]--
	}
	for _, count := range missing {
		lost += max(count, 0)
		extra += max(-count, 0)
	}
	return lost, extra
}

// A million lines of a file arrive in order.
func TestMillionLines(t *testing.T) {
	t.Parallel()
	const count = 1_000_000
	path := filepath.Join(t.TempDir(), "lines")
	lines := strings.Join(bustest.Numbers(1, count), "\n")
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	input, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	broker := startInFile(t, filepath.Join(t.TempDir(), "log"))
	status, got := sendLines(t, broker.Address, input)
	if status != 0 || got != (report{accepted: count}) {
		t.Errorf("the producer ended with status %d and reported %+v", status, got)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, bustest.Numbers(1, count)) {
		t.Errorf("the log has %d messages, want the %d lines in order", len(got), count)
	}
}

// A typed line is accepted within 300 ms. Where standard error is no terminal, the producer
// prints nothing before its end.
func TestTypedLines(t *testing.T) {
	broker := startBroker(t)
	input, producer := startTyping(t, producerFor(broker.Address, nil, "-lines"))
	best := time.Hour // the best of all lines, because a busy machine delays some
	const count = 12
	for i := range count {
		begin := time.Now()
		fmt.Fprintln(input, i)
		awaitDispatched(t, broker, i+1)
		best = min(best, time.Since(begin))
	}
	if best > 300*time.Millisecond {
		t.Errorf("the fastest line took %s, want at most 300ms", best)
	}
	input.Close()
	status, got := producer.Wait(), parseReport(t, producer.Stderr.String())
	if status != 0 || got.accepted != count {
		t.Errorf("the producer ended with status %d: %s", status, producer.Stderr)
	}
}

// A line arrives unchanged, whatever its bytes.
func TestLinesOfAnyBytes(t *testing.T) {
	t.Parallel()
	long, control := strings.Repeat("x", 2<<20), strings.Repeat("\x01", 2<<20)
	for name, test := range map[string]struct {
		input string
		want  []string
	}{
		"nothing":            {"", []string{}},
		"only line feeds":    {"\n\n\n", []string{"", "", ""}},
		"no end":             {"a\nb", []string{"a", "b"}},
		"CRLF":               {"a\r\n\r\nb\r\n", []string{"a\r", "\r", "b\r"}},
		"NUL":                {"\x00\na\x00b\n", []string{"\x00", "a\x00b"}},
		"not UTF-8":          {"\xff\xfe\n\xc3\n\x28\n", []string{"\xff\xfe", "\xc3", "("}},
		"quotes":             {"'\n\"\\\n\t\n", []string{"'", "\"\\", "\t"}},
		"70,000 bytes":       {long[:70_000] + "\ny\n", []string{long[:70_000], "y"}},
		"2 MiB":              {"x\n" + control + "\ny\n", []string{"x", control, "y"}},
		"2 MiB without end":  {long, []string{long}},
		"a byte over 64 KiB": {long[:64<<10] + "\n", []string{long[:64<<10]}},
	} {
		t.Run(name, func(t *testing.T) {
			broker := startBroker(t)
			status, got := sendLines(t, broker.Address, strings.NewReader(test.input))
			if status != 0 || got != (report{accepted: len(test.want)}) {
				t.Errorf("the producer ended with status %d and reported %+v", status, got)
			}
			for i, line := range test.want {
				test.want[i] = string(escape.Append(nil, []byte(line)))
			}
			if got := broker.stopAndReceive(); !slices.Equal(got, test.want) {
				t.Errorf("the messages in the log are %.200q, want %.200q", got, test.want)
			}
		})
	}
}

// The producer sends a batch over -max-payload in parts. It names a line over -max-payload.
func TestLineOverTheLimit(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, "-max-payload", "5000")
	lines := strings.Join(bustest.Numbers(1, 1000), "\n")
	input := strings.NewReader(fmt.Sprintf("%s\n%5000d\nafter\n", lines, 1001))
	status, got := sendLines(t, broker.Address, input, "-retry", "1h")
	want := report{1000, 1001, 1001, broker.Address +
		": refused: the payload is too large: more than 5000 bytes (the broker's -max-payload)"}
	if status != 1 || got != want {
		t.Errorf("the producer ended with status %d and reported %+v, want 1 and %+v",
			status, got, want)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, bustest.Numbers(1, 1000)) {
		t.Errorf("the messages in the log are %.200q, want the numbers from 1 to 1000", got)
	}
}

// Without a broker nothing is accepted, unless a broker starts before -retry is over.
func TestLinesWithoutABroker(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	for _, retry := range []string{"0", "300ms"} {
		status, got := sendLines(t, address, strings.NewReader("1\n2\n"), "-retry", retry)
		want := report{0, 1, 0, address + ": not accepted: connect: connection refused"}
		if status != 1 || got != want {
			t.Errorf("with -retry %s the producer ended with status %d and reported %+v, "+
				"want 1 and %+v", retry, status, got, want)
		}
	}
	producer := bustest.Start(t, producerFor(address, nil, "-message", "0", "-retry", "1h"))
	time.Sleep(300 * time.Millisecond) // a failed attempt leaves no trace to poll for
	broker := startAt(t, address)
	if status := producer.Wait(); status != 0 || producer.Stderr.String() != "" {
		t.Errorf("with -retry 1h the producer ended with status %d: %s", status, producer.Stderr)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, []string{"0"}) {
		t.Errorf("the messages in the log are %q, want 0", got)
	}
}

// While the broker is stopped and started again five times, no line is lost and none arrives
// twice.
func TestRestarts(t *testing.T) {
	t.Parallel()
	const restarts = 5
	address := bustest.FreeAddress(t)
	broker := startAt(t, address, "-interval", "20ms")
	input := &bustest.Endless{}
	producer := bustest.Start(t, producerFor(address, input, "-lines", "-retry", "30s"))
	var got []string
	for restart := range restarts {
		awaitStream(t, broker, restart)
		got = append(got, broker.stopAndReceive()...)
		broker = startAt(t, address, "-interval", "20ms")
	}
	awaitStream(t, broker, restarts)
	input.Stop()
	status := producer.Wait()
	got = append(got, broker.stopAndReceive()...)

	count := input.Lines()
	said := parseReport(t, producer.Stderr.String())
	if status != 0 || said != (report{accepted: count}) {
		t.Errorf("the producer ended with status %d: %s", status, producer.Stderr)
	}
	want := bustest.Numbers(1, count)
	lost, extra := countDifferences(got, want)
	if !slices.Equal(got, want) {
		t.Fatalf("of %d lines %d are lost and %d repeated, want all in order", count, lost, extra)
	}
	t.Logf("figure: %d restarts during a stream of %d lines with -retry 30s: "+
		"%d lost, %d twice, all in order", restarts, count, lost, extra)
}

// awaitStream waits until the first lines of a stream have reached a broker. Then it sleeps for
// 10 ms times the number of the round.
func awaitStream(t *testing.T, broker *brokerProcess, round int) {
	t.Helper()
	bustest.Until(t, "a message", func() bool {
		return strings.Contains(broker.Log.String(), "dispatched")
	})
	time.Sleep(time.Duration(round) * 10 * time.Millisecond)
}

// After the broker was killed, the producer names the lines with an unknown outcome. Every other
// line is in the log if the producer counts it as accepted, and only then.
func TestKilledInMidStream(t *testing.T) {
	t.Parallel()
	unknown := 0
	for round := range bustest.LongOrShort(50, 6) {
		path := filepath.Join(t.TempDir(), fmt.Sprint("log", round))
		broker := startInFile(t, path, "-interval", "0")
		producer := bustest.Start(t, producerFor(broker.Address, &bustest.Endless{}, "-lines"))
		bustest.Until(t, "a message", func() bool {
			return strings.Contains(broker.Log.String(), "Received")
		})
		time.Sleep(time.Duration(round%10) * 3 * time.Millisecond)
		broker.Kill()
		status := producer.Wait()
		said, got := parseReport(t, producer.Stderr.String()), broker.Received("t")
		if !slices.Equal(got, bustest.Numbers(1, len(got))) {
			t.Fatal("the lines in the log are not all lines up to the last one in order")
		}
		switch {
		case said.first != said.accepted+1:
			t.Errorf("the producer reported %+v, want first to follow the accepted lines", said)
		case status == 1 && len(got) == said.accepted:
		case status == 3 && len(got) >= said.accepted && len(got) <= said.last:
			unknown++
		default:
			t.Errorf("the producer ended with status %d and reported %+v, the log has %d messages",
				status, said, len(got))
		}
	}
	t.Logf("%d outcomes were unknown", unknown)
}

// While the broker is suspended, the kernel accepts a small payload for it. The outcome is
// unknown if the broker is then killed.
func TestKilledWhileSuspended(t *testing.T) {
	broker := startBroker(t)
	input, producer := startTyping(t, producerFor(broker.Address, nil, "-lines"))
	io.WriteString(input, "1\n2\n3\n")
	broker.Expect("3 new messages dispatched on topic t")
	broker.Signal(syscall.SIGSTOP)
	io.WriteString(input, "4\n5\n")
	time.Sleep(500 * time.Millisecond) // until lines 4 and 5 are sent, which can't be observed
	io.WriteString(input, "6\n")
	broker.Kill()
	want := report{3, 4, 5, broker.Address +
		": outcome unknown, sending again may duplicate: read: connection reset by peer"}
	status, got := producer.Wait(), parseReport(t, producer.Stderr.String())
	if status != 3 || got != want {
		t.Errorf("the producer ended with status %d and reported %+v, want 3 and %+v",
			status, got, want)
	}
}

// If a server does not answer, or is no broker, the outcome is unknown.
func TestLinesToOthers(t *testing.T) {
	t.Parallel()
	for answer, reason := range map[string]string{
		"": "timed out after 1s",
		"HTTP/1.1 400 Bad Request\r\n\r\n": "the answer is not a reply of mbus, is -port right? " +
			"the reply is an integer, must be a map of Accepted and Error",
	} {
		listener := bustest.Listen(t)
		if answer != "" {
			go func() {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				io.Copy(io.Discard, connection)
				io.WriteString(connection, answer)
				connection.Close()
			}()
		}
		address := listener.Addr().String()
		status, got := sendLines(t, address, strings.NewReader("1\n2\n"),
			"-timeout", "1s", "-retry", "1h")
		want := report{0, 1, 2, address +
			": outcome unknown, sending again may duplicate: " + reason}
		if status != 3 || got != want {
			t.Errorf("to the answer %q the producer ended with status %d and reported %+v, "+
				"want 3 and %+v", answer, status, got, want)
		}
	}
}

// The producer sends its lines even if standard error is closed or a closed pipe.
func TestLinesWithoutStandardError(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	const script = `exec "$0" -port "$1" -topic t -lines 2>&-`
	closed := exec.Command("sh", "-c", script, filepath.Join(binaries, "producer"), broker.port)
	closed.Stdin = strings.NewReader("1\n2\n")
	if status, _, _ := finish(t, closed); status != 0 {
		t.Errorf("with a closed standard error the producer ended with status %d", status)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	defer writer.Close()
	broken := producerFor(broker.Address, strings.NewReader("3\n"), "-lines")
	broken.Stderr = writer
	if status, _, _ := finish(t, broken); status != 0 {
		t.Errorf("with a closed pipe as standard error the producer ended with status %d", status)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, bustest.Numbers(1, 3)) {
		t.Errorf("the messages in the log are %q, want 1, 2 and 3", got)
	}
}

// While the queue is full, the broker refuses lines, and the producer names the first of them.
// With -retry the producer waits until there is room.
func TestLinesToAFullBroker(t *testing.T) {
	t.Parallel()
	want := bustest.Numbers(1, 20_000)
	broker, pipe := startInPipe(t, "-interval", "10ms", "-timeout", "1s", "-max-queued", "100000")
	status, got := sendLines(t, broker.Address, strings.NewReader(strings.Join(want, "\n")))
	refused := broker.Address + ": refused: queue is full"
	if status != 1 || got.accepted == 0 || got.first != got.accepted+1 ||
		got.last < got.first || got.reason != refused {
		t.Fatalf("the producer ended with status %d and reported %+v", status, got)
	}
	rest := strings.NewReader(strings.Join(want[got.accepted:], "\n"))
	process := bustest.Start(t, producerFor(broker.Address, rest, "-lines", "-retry", "1h"))
	// The broker serves waiting clients in turn, each for up to -timeout. So between two
	// refusals of other clients it has also refused the producer.
	for range 2 {
		broker.fill(bustest.Payload("other", ""))
	}
	go pipe.readRest(t, 4096, 0)
	if status := process.Wait(); status != 0 {
		t.Errorf("the producer ended with status %d: %s", status, process.Stderr)
	}
	broker.stop()
	bustest.Until(t, "the last message", func() bool {
		return len(broker.Received("t")) == len(want)
	})
	if got := broker.Received("t"); !slices.Equal(got, want) {
		t.Errorf("the log has %d messages, want the %d lines in order", len(got), len(want))
	}
}
