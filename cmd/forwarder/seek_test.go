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
func (source *source) numbers(first int) (numbers []int) {
	for number := first; number < source.count; number++ {
		numbers = append(numbers, number)
	}
	return numbers
}

// trouble is a stream or a log that ends the forwarder.
type trouble struct {
	name string
	want string // the error

	// make makes it, with a log that has messages which the stream does not have. It returns the
	// numbers of the log's messages, and how many of them the stream has in a row from the place
	// in the state on, and before; -1 if here is refused.
	make func(engine *engine, source *source, stream jetstream.Stream) (log []int, here int)
}

var troubles = []trouble{
	{"a message of somebody else",
		"message 11 of stream ORDERS, 5 bytes for mbus.stray, is not the log's",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			engine.publish("mbus.stray", "stray")
			source.write(5)
			return source.numbers(0), 10
		}},
	{"a message of somebody else while the forwarder runs", "somebody else publishes to the stream",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			process := engine.forward(source)
			await(engine.t, stream, 10, process)
			engine.publish("mbus.stray", "stray")
			source.write(5)
			process.expect(1, "should end at 10", "-seek here", "-seek start", "-seek end")
			return source.numbers(0), 10
		}},
	{"a message of somebody else at the end", "ends at 11, and the log at 10: somebody else",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			engine.publish("mbus.stray", "stray")
			return source.numbers(0), 10
		}},
	{"a log and a state of yesterday",
		"message 13 of stream ORDERS, ",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			state := source.readState()
			source.write(2) // are in the log that is restored
			size := source.size()
			source.write(20)
			source.rotate()
			source.write(20)
			forwardAll(engine, source, stream)
			source.shell("rm mbus.log; mv mbus.log-000001 mbus.log")
			source.writeState(state)
			log := source.numbers(0)[:12]
			source.resume(size)
			first := source.count
			source.write(5)
			return append(log, source.numbers(first)...), 12
		}},
	{"a stream that was recreated", "it ends at 0, and ended at 10 before",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			if err := engine.jetStream().DeleteStream(engine.t.Context(), "ORDERS"); err != nil {
				engine.t.Fatal(err)
			}
			engine.stream(jetstream.StreamConfig{})
			source.write(5)
			return source.numbers(0), 10
		}},
	{"a stream with other messages", "message 10 of stream ORDERS, 5 bytes for mbus.stray, is not",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			if err := engine.jetStream().DeleteStream(engine.t.Context(), "ORDERS"); err != nil {
				engine.t.Fatal(err)
			}
			engine.stream(jetstream.StreamConfig{})
			for range 12 {
				engine.publish("mbus.stray", "stray")
			}
			source.write(5)
			return source.numbers(0), 10
		}},
	{"no state", "has no position",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			if err := os.Remove(source.path + "_state"); err != nil {
				engine.t.Fatal(err)
			}
			source.write(5)
			return source.numbers(0), -1
		}},
	{"a position that is lost", "the position is lost",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			source.shell("rm mbus.log")
			source.open(source.size() + 1)
			source.write(5)
			return source.numbers(10), -1
		}},
	{"a stream that was recreated, and a position that is lost", "it ends at 0, and ended at 10",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			if err := engine.jetStream().DeleteStream(engine.t.Context(), "ORDERS"); err != nil {
				engine.t.Fatal(err)
			}
			engine.stream(jetstream.StreamConfig{})
			source.shell("rm mbus.log")
			source.log++
			source.number = 0
			source.open(0)
			source.write(5)
			return source.numbers(10), -1
		}},
	{"removed messages of somebody else's", "message 21 of stream ORDERS, 5 bytes for mbus.stray",
		func(engine *engine, source *source, stream jetstream.Stream) ([]int, int) {
			source.write(10)
			forwardAll(engine, source, stream)
			for range 11 {
				engine.publish("mbus.stray", "stray")
			}
			if err := stream.Purge(engine.t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
				engine.t.Fatal(err)
			}
			source.write(15)
			return source.numbers(0), -1
		}},
}

// resume makes the file shorter, as one that was restored from a backup is.
func (source *source) resume(size int64) {
	source.t.Helper()
	source.file.Close()
	file, err := os.OpenFile(source.path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		err = file.Truncate(size)
	}
	if err != nil {
		source.t.Fatal(err)
	}
	source.file, source.number = file, 1
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
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	log, here := trouble.make(engine, source, stream)
	before, _ := state(stream)
	places := []string{trouble.want, "-seek start to send", "-seek end to send"}
	if here >= 0 {
		places = append(places, "-seek here to send")
	}
	engine.forward(source).expect(1, places...)
	first := map[string]int{"start": 0, "end": len(log), "here": here}[place]
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
