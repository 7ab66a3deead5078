//go:build unix

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/follow"
)

// forwardAll forwards all messages of the log, and stops.
func forwardAll(engine *engine, source *source, stream jetstream.Stream, arguments ...string) {
	engine.t.Helper()
	process := engine.forward(source, arguments...)
	await(engine.t, stream, source.count, process)
	process.stop()
}

// seek sets the state of a source by -seek, and expects want on standard output.
func (e *engine) seek(source *source, place string, want ...string) {
	e.t.Helper()
	process := e.forward(source, "-seek", place)
	process.expect(0)
	for _, text := range append(want, source.path+"_state continues at ") {
		if printed := process.Stdout.String(); !strings.Contains(printed, text) {
			e.t.Errorf("it printed %q, want in it: %s", printed, text)
		}
	}
}

// readState and writeState read and write the state of a source.
func (s *source) readState() []byte {
	s.t.Helper()
	text, err := os.ReadFile(s.path + "_state")
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s *source) writeState(text []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path+"_state", text, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// setNote saves a note in the source's state, at the position that the state has.
func (s *source) setNote(note string) {
	s.t.Helper()
	state, err := follow.OpenState(s.path+"_state", "forwarder")
	if err != nil {
		s.t.Fatal(err)
	}
	defer state.Close()
	position, _, _ := state.Load()
	if err := state.Save(position, note); err != nil {
		s.t.Fatal(err)
	}
}

// With an older state the forwarder skips the messages that the stream has.
func TestStaleState(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	var states [][]byte
	for range 3 {
		source.write(700)
		forwardAll(engine, source, stream)
		states = append(states, source.readState())
		source.rotate()
	}
	connection := engine.connect()
	direct, err := connection.SubscribeSync("$JS.API.DIRECT.GET.>")
	if err == nil {
		err = connection.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range states {
		source.write(10)
		source.writeState(state)
		forwardAll(engine, source, stream)
	}
	compare(t, stream, source.count)
	if _, err := direct.NextMsg(time.Millisecond); err == nil {
		t.Error("it has used direct access, which a replica that lags may answer")
	}
}

// After a crash has torn the state, the forwarder starts from the place that was saved
// before. It does not change a file that is not a state.
func TestTornState(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	for range 3 {
		source.write(100)
		forwardAll(engine, source, stream)
	}
	whole := source.readState()
	half := len(whole) / 2
	spoil := func(at int) []byte {
		spoilt := bytes.Clone(whole)
		copy(spoilt[at:], "xxxxxxxxxxxx")
		return spoilt
	}
	for _, torn := range [][]byte{
		whole[:half], whole[:len(whole)-1],
		append(bytes.Clone(whole[:half]), bytes.Repeat([]byte{0}, half)...),
		append(bytes.Repeat([]byte{0}, half), whole[half:]...),
		spoil(40), spoil(half + 40),
	} {
		source.write(10)
		source.writeState(torn)
		forwardAll(engine, source, stream)
	}
	compare(t, stream, source.count)
	source.writeState([]byte("something else\n"))
	engine.forward(source).expect(1, "is not a state of a forwarder")
	if got := source.readState(); string(got) != "something else\n" {
		t.Errorf("the file is %q", got)
	}
}

// Without a state, a stream that has messages is an error, until -seek has set the state.
func TestDeletedState(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(100)
	forwardAll(engine, source, stream)
	forget := func() {
		if err := os.Remove(source.path + "_state"); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	engine.forward(source).expect(1, "-seek start", "-seek end", "ends at 100", "_state")
	engine.forward(source, "-seek", "here").expect(1, "_state has no position", "-seek start")
	engine.seek(source, "end", fmt.Sprintf("offset %d of file 1 of log", source.size()),
		"after message 100 of stream ORDERS")
	source.write(50)
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
	forget()
	engine.seek(source, "start", "offset 0 of file 1 of log", "after message 150")
	process := engine.forward(source)
	await(t, stream, 2*source.count, process)
	process.stop()
}

// A place that the log has lost is an error, at the start and later.
func TestLostPlace(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(100)
	forwardAll(engine, source, stream)
	if err := os.Remove(source.path); err != nil {
		t.Fatal(err)
	}
	size := source.size()
	source.file.Close()
	source.open(size + 10)
	source.write(20)
	why := fmt.Sprintf("bytes %d to %d of file 1 are missing", size, size+10)
	engine.forward(source).expect(1, why, "the position is lost", "-seek start", "-seek end")
	engine.forward(source, "-seek", "here").
		expect(1, "the position is lost", "-seek start", "-seek end")
	engine.seek(source, "start", "offset 0 of file 2", "after message 100")
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
	// The same holds while the forwarder runs.
	process := engine.forward(source)
	source.write(1)
	await(t, stream, source.count, process)
	size = source.size()
	if err := os.Truncate(source.path, 0); err != nil {
		t.Fatal(err)
	}
	source.file.Close()
	source.open(size - 1)
	source.write(10)
	process.expect(1, fmt.Sprintf("file 2 has more than the %d bytes that file 3 says", size-1))
	if reported := process.Stderr.String(); strings.Count(reported, "\n") != 1 {
		t.Errorf("it reported:\n%s", reported)
	}
}

// A stream with more messages than a log that has lost its end is an error.
func TestShorterLog(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(50)
	forwardAll(engine, source, stream)
	before, size := source.readState(), source.size()
	source.write(50)
	forwardAll(engine, source, stream)
	source.writeState(before)
	if err := os.Truncate(source.path, size); err != nil {
		t.Fatal(err)
	}
	engine.forward(source).expect(1, "ends at 100, and the log at 50")
	compare(t, stream, 100)
}

// The forwarder waits for a log that does not exist yet, even if it has sent from it before.
func TestLateLog(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	process := engine.forward(source)
	awaitState(t, source.path+"_state")
	process.Kill()
	first := source.readState()
	source.write(10)
	forwardAll(engine, source, stream)
	source.writeState(first)
	if err := os.Rename(source.path, source.path+"_away"); err != nil {
		t.Fatal(err)
	}
	process = engine.forward(source)
	time.Sleep(time.Second) // without a log
	if err := os.Rename(source.path+"_away", source.path); err != nil {
		t.Fatal(err)
	}
	source.write(10)
	await(t, stream, source.count, process)
	process.stop()
	compare(t, stream, source.count)
}

// The forwarder skips lines without a message, and reports those with a torn one.
func TestTornLines(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(5)
	fmt.Fprint(source.file, "2024/06/02 10:39:55 creating topic orders\n",
		"2024/06/02 10:39:55 Received new message from topic 'orders': 'torn",
		"2024/06/02 10:39:56 Broker: listening on 127.0.0.1:9990\n",
		"2024/06/02 10:39:55 Received new message from topic 'orders': '\\q'\n",
		"2024/06/02 10:39:55 Received new message from topic '\\q': 'x'\n")
	source.write(5)
	process := engine.forward(source)
	await(t, stream, source.count, process)
	process.stop("skipped a line: it is torn: ",
		"skipped a line: in its data, byte 1 starts no escape: ",
		"skipped a line: in its topic, byte 1 starts no escape: ")
	compare(t, stream, source.count)
}

// Only one forwarder at a time can use a state.
func TestSharedState(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	process := engine.forward(source)
	await(t, stream, source.count, process)
	engine.forward(source).expect(1, "in use by another forwarder")
	process.stop()
}

// Two forwarders with one log and different states send each message once: one of them ends
// with an error.
func TestSharedLog(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	other := filepath.Join(t.TempDir(), "state")
	processes := []*process{engine.forward(source), engine.forward(source, "-state", other)}
	for _, path := range []string{source.path + "_state", other} {
		awaitState(t, path)
	}
	stop := source.load()
	var loser int
	select {
	case <-processes[0].Ended:
	case <-processes[1].Ended:
		loser = 1
	case <-time.After(bustest.Patience):
		t.Fatal("none of them has ended")
	}
	processes[loser].expect(1, "somebody else publishes to the stream")
	stop()
	winner := processes[1-loser]
	await(t, stream, source.count, winner)
	winner.stop()
	compare(t, stream, source.count)
}

// With two logs and one stream, one forwarder ends with an error.
func TestSharedStream(t *testing.T) {
	t.Parallel()
	engine, source, other := newEngine(t), newSource(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(500)
	process := engine.forward(source)
	await(t, stream, source.count, process)
	fmt.Fprintf(other.file, "%s", appendLine(nil, "orders", []byte("another")))
	engine.forward(other).expect(1, "-seek start")
	engine.seek(other, "start", "after message 500")
	engine.forward(other)
	bustest.Until(t, "another's message", func() bool {
		state, _ := state(stream)
		return state.LastSeq == uint64(source.count)+1
	})
	source.write(500)
	process.expect(1, "somebody else publishes to the stream")
}
