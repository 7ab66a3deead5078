//go:build unix

package main_test

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
)

// numbers returns the numbers of the source's messages from first on.
func (s *source) numbers(first int) (numbers []int) {
	for number := first; number < s.count; number++ {
		numbers = append(numbers, number)
	}
	return numbers
}

// setting is an engine, a source, and a stream that has the first 10 messages of the source.
type setting struct {
	t      *testing.T
	engine *engine
	source *source
	stream jetstream.Stream
}

func newSetting(t *testing.T) *setting {
	t.Helper()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	forwardAll(engine, source, stream)
	return &setting{t, engine, source, stream}
}

// stray publishes messages that are not from the log.
func (s *setting) stray(count int) {
	s.t.Helper()
	for range count {
		s.engine.publish("mbus.stray", "stray")
	}
}

// restore puts back the state with which the stream had 10 messages, and the log with 12.
func (s *setting) restore() {
	s.t.Helper()
	state := s.source.readState()
	s.source.write(2)
	size := s.source.size()
	s.source.write(20)
	s.source.rotate()
	s.source.write(20)
	forwardAll(s.engine, s.source, s.stream)
	s.source.shell("rm mbus.log; mv mbus.log-000001 mbus.log")
	s.source.writeState(state)
	s.source.resume(size)
}

// strayWhileRunning publishes a message that is not from the log, while the forwarder runs.
func (s *setting) strayWhileRunning() {
	s.t.Helper()
	process := s.engine.forward(s.source)
	s.source.write(1)
	await(s.t, s.stream, 11, process)
	s.stray(1)
	s.source.write(1)
	process.expect(1, "should end at 11", "-seek here", "-seek start", "-seek end")
}

// loseLog replaces the log by a file of the same log, after a gap of one byte.
func (s *setting) loseLog() {
	s.t.Helper()
	s.source.shell("rm mbus.log")
	s.source.open(s.source.size() + 1)
}

// replaceLog replaces the log by the first file of another one.
func (s *setting) replaceLog() {
	s.t.Helper()
	s.source.shell("rm mbus.log")
	s.source.log++
	s.source.number = 0
	s.source.open(0)
}

// trouble is a stream or a log that ends the forwarder.
type trouble struct {
	name  string
	want  string // the error
	make  func(s *setting)
	added int // how many messages are written to the log afterwards
	first int // the number of the first message that the log has lost
	end   int // the number after the last one
	here  int // how many messages of the log -seek here leaves out; -1: it is refused
}

var troubles = []trouble{
	{
		name: "a message of somebody else", added: 5, here: 10,
		want: "message 11 of stream ORDERS, 5 bytes for mbus.stray, is not the log's",
		make: func(s *setting) { s.stray(1) },
	}, {
		name: "a message of somebody else while the forwarder runs", added: 5, here: 11,
		want: "somebody else publishes to the stream",
		make: (*setting).strayWhileRunning,
	}, {
		name: "a message of somebody else at the end", here: 10,
		want: "ends at 11, and the log at 10: somebody else",
		make: func(s *setting) { s.stray(1) },
	}, {
		name: "a log and a state of yesterday", added: 5, first: 12, end: 52, here: 12,
		want: "message 13 of stream ORDERS, ",
		make: (*setting).restore,
	}, {
		name: "a stream that was recreated", added: 5, here: 10,
		want: "it ends at 0, and ended at 10 before",
		make: func(s *setting) { s.engine.recreate() },
	}, {
		name: "a stream with other messages", added: 5, here: 10,
		want: "message 10 of stream ORDERS, 5 bytes for mbus.stray, is not",
		make: func(s *setting) {
			s.engine.recreate()
			s.stray(12)
		},
	}, {
		name: "no state", added: 5, here: -1,
		want: "has no position",
		make: func(s *setting) { s.source.shell("rm mbus.log_state") },
	}, {
		name: "a position that is lost", added: 5, end: 10, here: -1,
		want: "the position is lost",
		make: (*setting).loseLog,
	}, {
		name: "a stream that was recreated, and a lost position", added: 5, end: 10, here: -1,
		want: "it ends at 0, and ended at 10",
		make: func(s *setting) {
			s.engine.recreate()
			s.replaceLog()
		},
	}, {
		name: "removed messages of somebody else's", added: 15, here: -1,
		want: "message 21 of stream ORDERS, 5 bytes for mbus.stray",
		make: func(s *setting) {
			s.stray(11)
			if err := s.stream.Purge(s.t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
				s.t.Fatal(err)
			}
		},
	},
}

// resume makes the file shorter, as one that was restored from a backup is.
func (s *source) resume(size int64) {
	s.t.Helper()
	s.file.Close()
	file, err := os.OpenFile(s.path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		err = file.Truncate(size)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.file, s.number = file, 1
}

// After each error of the stream's content or of the position, -seek names the places that are
// possible, and each of them works: every message of the log that should be in the stream is there,
// once, and what the stream had stays.
func TestSeek(t *testing.T) {
	t.Parallel()
	for _, trouble := range troubles {
		for _, place := range []string{"start", "end", "here"} {
			t.Run(trouble.name+", "+place, func(t *testing.T) {
				t.Parallel()
				testSeek(t, trouble, place)
			})
		}
	}
}

func testSeek(t *testing.T, trouble trouble, place string) {
	s := newSetting(t)
	engine, source, stream := s.engine, s.source, s.stream
	trouble.make(s)
	source.write(trouble.added)
	log := slices.Delete(source.numbers(0), trouble.first, trouble.end)
	before, _ := state(stream)
	places := []string{trouble.want, "-seek start to send", "-seek end to send"}
	if trouble.here >= 0 {
		places = append(places, "-seek here to send")
	}
	engine.forward(source).expect(1, places...)
	first := map[string]int{"start": 0, "end": len(log), "here": trouble.here}[place]
	if first < 0 {
		was := source.readState()
		engine.forward(source, "-seek", place).expect(1, places[1:]...)
		if !bytes.Equal(source.readState(), was) {
			t.Error("the state has changed")
		}
		return
	}
	engine.seek(source, place)
	want := slices.Clone(log[first:])
	for range 2 { // starts
		added := source.count
		source.write(7)
		want = append(want, source.numbers(added)...)
		process := engine.forward(source)
		await(t, stream, int(before.LastSeq)+len(want), process)
		process.stop()
	}
	compareFrom(t, stream, before.LastSeq+1, want)
	if after, _ := state(stream); after.Msgs != before.Msgs+uint64(len(want)) {
		t.Errorf("the stream has %d messages, had %d before", after.Msgs, before.Msgs)
	}
}

// compareFrom fails the test unless the stream has from sequence on the messages with numbers, and
// no others.
func compareFrom(t *testing.T, stream jetstream.Stream, sequence uint64, numbers []int) {
	t.Helper()
	for i, number := range numbers {
		message, err := stream.GetMsg(t.Context(), sequence+uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		_, subject, data := content(number)
		if message.Subject != "mbus."+subject || !bytes.Equal(message.Data, data) {
			t.Fatalf("message %d is for %s: %.50q, want for %s: %.50q",
				message.Sequence, message.Subject, message.Data, subject, data)
		}
	}
}

// Without a log and a state, start and end make the state. A log that is missing can't be compared.
func TestSeekWithoutLog(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"start", "end"} {
		engine, source := newEngine(t), newSource(t)
		stream := engine.stream(jetstream.StreamConfig{})
		engine.publish("mbus.stray", "stray")
		source.shell("mv mbus.log away")
		engine.seek(source, place, "continues at the start of the log", "after message 1 of stream")
		engine.forward(source, "-seek", "here").expect(1, "mbus.log: file does not exist")
		source.shell("mv away mbus.log")
		source.write(10)
		process := engine.forward(source)
		await(t, stream, 11, process)
		process.stop()
		compareFrom(t, stream, 2, source.numbers(0))
	}
}

// -seek does not wait for an engine that is away, and leaves a state alone that is in use.
func TestSeekFails(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	process := engine.forward(source)
	await(t, stream, 10, process)
	engine.forward(source, "-seek", "start").expect(1, "in use by another forwarder")
	process.stop()
	was := source.readState()
	engine.forward(source, "-seek", "start", "-url", "nats://"+bustest.FreeAddress(t)).
		expect(1, "nats://127.0.0.1:", "no servers available")
	engine.forward(source, "-seek", "start", "-stream", "OTHER").
		expect(1, "there is no stream OTHER")
	if !bytes.Equal(source.readState(), was) {
		t.Error("the state has changed")
	}
}

// Messages that nobody else has published need no -seek: here leaves the state where it is.
func TestSeekHereWithoutTrouble(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	forwardAll(engine, source, stream)
	stale := source.readState()
	source.write(10)
	forwardAll(engine, source, stream)
	source.writeState(stale)
	engine.seek(source, "here", "after message 20 of stream ORDERS")
	source.write(10)
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
}
