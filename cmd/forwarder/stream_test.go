//go:build unix

package main_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
)

// unfits are streams that can't have the log's messages, with the error.
var unfits = []struct {
	config jetstream.StreamConfig
	want   string
}{
	{jetstream.StreamConfig{Subjects: []string{"mbus.>"}},
		"takes no atomic batches, which need nats-server 2.12 or later: " +
			"nats stream edit ORDERS --allow-batch"},
	{jetstream.StreamConfig{
		Subjects: []string{"mbus.>"}, AllowAtomicPublish: true, NoAck: true},
		"acknowledges nothing: nats stream edit ORDERS --ack"},
	{jetstream.StreamConfig{Subjects: []string{"mbus.*", "other"}, AllowAtomicPublish: true},
		"does not take all subjects below -prefix mbus.: " +
			"correct the prefix, or nats stream edit ORDERS --subjects 'mbus.*,other,mbus.>'"},
	{jetstream.StreamConfig{Subjects: []string{"mbus.>"}, AllowAtomicPublish: true,
		SubjectTransform: &jetstream.SubjectTransformConfig{
			Source: "mbus.>", Destination: "other.>"}},
		"changes subjects (subject_transform): nats stream edit ORDERS --no-transform"},
	{jetstream.StreamConfig{
		Subjects: []string{"mbus.>"}, AllowAtomicPublish: true, AllowMsgCounter: true},
		"takes only counts (allow_msg_counter): use another stream"},
	{jetstream.StreamConfig{Subjects: []string{"mbus.>"}, AllowAtomicPublish: true,
		Sealed: true},
		"takes no messages (sealed): use another stream"},
}

// For a stream with an unfit configuration, the error shows the command that corrects it, or the
// setting.
func TestUnfitStream(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	source.write(10)
	engine.forward(source).expect(1, "nats stream add ORDERS --subjects 'mbus.>' --allow-batch")
	jetStream := engine.jetStream()
	for _, test := range unfits {
		test.config.Name = "ORDERS"
		isSealed := test.config.Sealed
		test.config.Sealed = false // no stream can be made so
		stream, err := jetStream.CreateStream(t.Context(), test.config)
		if err == nil && isSealed {
			test.config.Sealed = true
			stream, err = jetStream.UpdateStream(t.Context(), test.config)
		}
		if err != nil {
			t.Fatal(err)
		}
		engine.forward(source).expect(1, test.want)
		if state, _ := state(stream); state.LastSeq != 0 {
			t.Errorf("it has sent %d messages", state.LastSeq)
		}
		if err := jetStream.DeleteStream(t.Context(), "ORDERS"); err != nil {
			t.Fatal(err)
		}
	}
}

// JetStream that is off, or not there for the account, is named as the cause while the forwarder
// retries.
func TestJetStreamOff(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ jetStream, others, want string }{
		{"enabled: false", "",
			"JetStream is off, not there for this account, or without stream ORDERS"},
		{"", `accounts { A { users: [{user: a, password: a}] }
			B { jetstream: enabled, users: [{user: b, password: b}] } }`,
			"JetStream not enabled for account"},
	} {
		engine, source := prepareEngine(t, test.jetStream, test.others), newSource(t)
		engine.start()
		url := strings.Replace(engine.url, "//", "//a:a@", 1)
		process := engine.forward(source, "-url", url)
		process.reports("; retrying")
		process.stop(engine.url+": ", test.want)
	}
}

// Messages that the stream has removed make no difference: only the last sequence counts.
func TestPurge(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	for range 3 {
		source.write(100)
		process := engine.forward(source)
		await(t, stream, source.count, process)
		bustest.Until(t, "the place", func() bool {
			sequence, _ := source.sequence()
			return sequence == uint64(source.count)
		})
		stale := source.readState()
		source.write(100)
		await(t, stream, source.count, process)
		process.Kill()
		if err := stream.Purge(t.Context(), jetstream.WithPurgeKeep(10)); err != nil {
			t.Fatal(err)
		}
		source.writeState(stale)
		source.write(5)
		forwardAll(engine, source, stream)
	}
	compare(t, stream, source.count)
}

// A stream that was recreated is an error: while the forwarder runs, at its next start, and
// when the stream has as many messages as before.
func TestRecreatedStream(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(100)
	process := engine.forward(source)
	await(t, stream, source.count, process)
	engine.recreate()
	source.write(10)
	process.expect(1, "wrong last sequence: 0")
	engine.forward(source).expect(1, "it ends at 0, and ended at 100 before", "-seek start")
	for range 100 {
		engine.publish("mbus.orders", "another")
	}
	engine.forward(source).expect(1,
		"message 100 of stream ORDERS, 7 bytes for mbus.orders, is not the log's")
	stream = engine.recreate()
	engine.seek(source, "start", "offset 0 of file 1 of log", "after message 0 of stream ORDERS")
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
}

// A foreign message ends the forwarder, and the stream stores none of its messages after it.
func TestForeignMessages(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	// It is published while the forwarder runs.
	process := engine.forward(source)
	stop := source.load()
	awaitFirst(t, source)
	engine.publish("mbus.foreign", "foreign")
	process.expect(1, "somebody else publishes to the stream")
	stop()
	foreign, err := stream.GetLastMsgForSubject(t.Context(), "mbus.foreign")
	if err != nil {
		t.Fatal(err)
	}
	state, _ := state(stream)
	if foreign.Sequence != state.LastSeq {
		t.Errorf("after the foreign message %d the stream has others, up to %d",
			foreign.Sequence, state.LastSeq)
	}
	// The next start reports it, too.
	engine.forward(source).expect(1, fmt.Sprintf("message %d of stream ORDERS, "+
		"7 bytes for mbus.foreign, is not the log's", foreign.Sequence))
}

// A foreign message at the stream's end is an error at the next start.
func TestForeignAtEnd(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	forwardAll(engine, source, stream)
	engine.publish("mbus.foreign", "foreign")
	engine.forward(source).expect(1,
		"ends at 11, and the log at 10: somebody else publishes to the stream")
}

// A foreign message is an error even if a worker has removed it, while the forwarder runs. At the
// next start, the forwarder can't know whose it was, and reports it.
func TestForeignWorkedOff(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy})
	work(t, stream)
	source.write(10)
	forwardAll(engine, source, stream)
	process := engine.forward(source)
	source.write(10)
	await(t, stream, 20, process)
	engine.publish("mbus.foreign", "foreign")
	awaitRemoval(t, stream, 21)
	source.write(10)
	process.expect(1, "should end at 20", "somebody else publishes to the stream", "-seek here")
	if state, _ := state(stream); state.LastSeq != 21 {
		t.Errorf("the stream ends at %d", state.LastSeq)
	}
	engine.forward(source, "-seek", "here").expect(1,
		"has removed its messages 21 to 21, which may be the log's", "-seek start", "-seek end")
	process = engine.forward(source)
	process.reports("stream ORDERS has removed its messages 21 to 21, " +
		"which could not be compared: they count as the log's")
}

// A foreign message that a worker has removed while the connection was lost is an error too,
// because all batches of the forwarder were answered before.
func TestForeignWorkedOffWhileAway(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy})
	work(t, stream)
	proxy := newProxy(t, engine, func([]byte) {})
	process := engine.forward(source, "-url", proxy.url)
	source.write(10)
	awaitPlace(t, source, 10, process)
	engine.publish("mbus.foreign", "foreign")
	awaitRemoval(t, stream, 11)
	proxy.cut()
	process.reports("; retrying")
	source.write(10)
	process.expect(1, "message 11 of stream ORDERS was removed, and was not sent from the log: "+
		"somebody else publishes to the stream", "-seek start", "-seek end")
}

// The same holds after a batch whose last message could not be sent, because the stream never
// stores that batch. Here, the server says that it takes no headers.
func TestForeignAfterUnsentBatch(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy})
	work(t, stream)
	var isWithout atomic.Bool
	var sessions atomic.Int32
	proxy := newProxy(t, engine, func(text []byte) {
		if i := bytes.Index(text, []byte(`"headers":true`)); i >= 0 && isWithout.Load() {
			copy(text[i:], `"headers":null`)
			sessions.Add(1)
		}
	})
	process := engine.forward(source, "-url", proxy.url)
	source.write(10)
	awaitPlace(t, source, 10, process)
	isWithout.Store(true)
	proxy.cut()
	source.write(10)
	bustest.Until(t, "the end of a session", func() bool { return sessions.Load() >= 2 })
	engine.publish("mbus.foreign", "foreign")
	awaitRemoval(t, stream, 11)
	process.expect(1, "message 11 of stream ORDERS was removed, and was not sent from the log")
}

// awaitRemoval waits until a stream has removed all its messages up to last.
func awaitRemoval(t *testing.T, stream jetstream.Stream, last uint64) {
	t.Helper()
	bustest.Until(t, "nothing in the stream", func() bool {
		state, answered := state(stream)
		return answered && state.Msgs == 0 && state.LastSeq == last
	})
}

// The same holds for a foreign message between two parts of a batch that the engine refused.
func TestForeignBetweenParts(t *testing.T) {
	t.Parallel()
	engine, source := prepareEngine(t, "limits { batch { max_msgs: 70 } }", ""), newSource(t)
	engine.start()
	stream := engine.stream(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy})
	work(t, stream)
	var once sync.Once
	proxy := newProxy(t, engine, func(text []byte) {
		if bytes.Contains(text, []byte(`"seq":50,`)) {
			once.Do(func() {
				engine.publish("mbus.foreign", "foreign")
				awaitRemoval(t, stream, 51)
			})
		}
	})
	source.write(100)
	process := engine.forward(source, "-url", proxy.url)
	process.expect(1, "should end at 50", "somebody else publishes to the stream")
}

// A forwarder that is stopped between two parts of a batch finds the first one at its next start.
func TestStopBetweenParts(t *testing.T) {
	t.Parallel()
	const limits = "limits { batch { max_msgs: 70, max_inflight_per_stream: 1, timeout: 1h } }"
	engine, source := prepareEngine(t, limits, ""), newSource(t)
	engine.start()
	stream := engine.stream(jetstream.StreamConfig{})
	connection := engine.connect()
	var once sync.Once
	proxy := newProxy(t, engine, func(text []byte) {
		if bytes.Contains(text, []byte(`"seq":50,`)) {
			once.Do(func() { // a batch without an end, so that the next part is refused
				connection.PublishMsg(&nats.Msg{Subject: "mbus.foreign", Header: nats.Header{
					"Nats-Batch-Id": {"foreign"}, "Nats-Batch-Sequence": {"1"}}})
				connection.Flush()
			})
		}
	})
	source.write(100)
	process := engine.forward(source, "-url", proxy.url)
	process.reports("; retrying")
	process.stop("code=4")
	engine.process.Kill() // which drops the other batch
	engine.start()
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
}

// The forwarder waits while the stream is full.
func TestFullStream(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	config := jetstream.StreamConfig{MaxMsgs: 1050, Discard: jetstream.DiscardNew}
	stream := engine.stream(config)
	source.write(3000)
	process := engine.forward(source)
	process.reports("maximum messages exceeded")
	await(t, stream, 1050, process) // the stream is filled to its limit
	config = stream.CachedInfo().Config
	config.MaxMsgs = -1
	if _, err := engine.jetStream().UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	await(t, stream, source.count, process)
	process.stop("; retrying", ": back after ")
	if reported := process.Stderr.String(); strings.Count(reported, "\n") != 2 {
		t.Errorf("it reported:\n%s", reported)
	}
	compare(t, stream, source.count)
	// Batches have grown again after the refusals.
	batches := make(map[string]bool)
	for sequence := 1051; sequence <= source.count; sequence++ {
		message, err := stream.GetMsg(t.Context(), uint64(sequence))
		if err != nil {
			t.Fatal(err)
		}
		batches[message.Header.Get("Nats-Batch-Id")] = true
	}
	if len(batches) > 200 {
		t.Errorf("the last %d messages came in %d batches", source.count-1050, len(batches))
	}
}

// A worker empties a full work queue while the forwarder waits or is stopped. The messages that
// the queue has removed are not sent again.
func TestFullWorkQueue(t *testing.T) {
	t.Parallel()
	for _, isStopped := range []bool{false, true} {
		testFullWorkQueue(t, isStopped)
	}
}

func testFullWorkQueue(t *testing.T, isStopped bool) {
	t.Helper()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{
		Retention: jetstream.WorkQueuePolicy, MaxMsgs: 50, Discard: jetstream.DiscardNew})
	source.write(300)
	process := engine.forward(source)
	process.reports("maximum messages exceeded")
	await(t, stream, 50, process)
	if isStopped {
		process.stop("; retrying")
	}
	worker := work(t, stream)
	bustest.Until(t, "nothing in the stream", func() bool {
		state, answered := state(stream)
		return answered && state.Msgs == 0
	})
	if isStopped {
		process = engine.forward(source)
	}
	await(t, stream, source.count, process)
	process.Kill()
	worker.compare(t, source.count)
}

// The forwarder makes its batches as small as the engine's limit.
func TestSmallBatches(t *testing.T) {
	t.Parallel()
	engine, source := prepareEngine(t, "limits { batch { max_msgs: 70 } }", ""), newSource(t)
	engine.start()
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(3000)
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
	// Only the first message of a batch has the headers for its place.
	for sequence, want := range map[uint64]string{1: "ORDERS", 2: ""} {
		message, err := stream.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		if got := message.Header.Get("Nats-Expected-Stream"); got != want {
			t.Errorf("message %d is for the stream %q, want %q", sequence, got, want)
		}
	}
}

// A message that is too large ends the forwarder. After the limit is raised, it continues.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{MaxMsgSize: 20_000})
	source.write(999)
	before := source.size()
	source.write(501) // the first is too large
	process := engine.forward(source)
	process.expect(1, fmt.Sprintf("%s: the message after offset %d of file 1 of log ",
		source.path, before), "50092 bytes for mbus.it%27s", "max_msg_size 20000 ")
	if state, _ := state(stream); state.LastSeq != 999 {
		t.Errorf("the stream ends at %d", state.LastSeq)
	}
	config := stream.CachedInfo().Config
	config.MaxMsgSize = -1
	if _, err := engine.jetStream().UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
	fmt.Fprintf(source.file, "%s", appendLine(nil, "large", make([]byte, 1<<20)))
	process = engine.forward(source)
	process.expect(1, "1048576 bytes for mbus.large", "max_payload is 1048576")
	compare(t, stream, source.count)
}

// A message of a broker's largest size is sent, and compared at the next start, with the README's
// limit. The engine's answer with the message is larger than the limit.
func TestLargest(t *testing.T) {
	t.Parallel()
	engine, source := prepareEngine(t, "", "max_payload: 17MB"), newSource(t)
	engine.start()
	stream := engine.stream(jetstream.StreamConfig{})
	process := engine.forward(source)
	awaitState(t, source.path+"_state")
	process.Kill()
	stale := source.readState()
	fmt.Fprintf(source.file, "%s", appendLine(nil, "large", make([]byte, 16<<20)))
	source.count = 1
	forwardAll(engine, source, stream)
	source.writeState(stale)
	process = engine.forward(source)
	awaitPlace(t, source, 1, process)
	process.stop()
}

// The stream may store the batch of a lost connection after the next session has read the
// stream's end. The forwarder recognizes that batch as its own.
func TestLateBatch(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	process := forwardLate(engine, source, stream)
	source.write(100)
	await(t, stream, source.count, process)
	process.stop("no answer within 1s; retrying", ": back after ")
	compare(t, stream, source.count)
}

// After that batch, a foreign message is an error again, even if it was removed.
func TestForeignAfterLateBatch(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	process := forwardLate(engine, source, stream)
	engine.publish("mbus.foreign", "foreign")
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	source.write(10)
	process.expect(1, "should end at 100", "somebody else publishes to the stream")
}

// forwardLate starts a forwarder of 100 messages, whose first batch is late, and waits until the
// forwarder has found that batch in the stream.
func forwardLate(engine *engine, source *source, stream jetstream.Stream) *process {
	engine.t.Helper()
	proxy := newHolder(engine.t, engine, func() {
		bustest.Until(engine.t, "the late batch", func() bool {
			state, _ := state(stream)
			return state.LastSeq == 100
		})
	})
	source.write(100)
	process := engine.forward(source, "-url", proxy, "-timeout", "1s")
	awaitPlace(engine.t, source, 100, process)
	return process
}

// A batch whose answer is lost is found in the stream. That ends the outage, too: there may be
// nothing more to send.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	var connections *proxy
	var once sync.Once
	connections = newProxy(t, engine, func(text []byte) {
		if bytes.Contains(text, []byte(`"seq":100,`)) {
			once.Do(func() { connections.cut() })
		}
	})
	source.write(100)
	process := engine.forward(source, "-url", connections.url)
	process.reports("; retrying")
	process.reports(": back after ")
	process.stop("; retrying")
	compare(t, stream, source.count)
	if sequence, _ := source.sequence(); sequence != 100 {
		t.Errorf("the state is at %d", sequence)
	}
}

// newHolder starts a proxy that holds the messages of the first connection until the second
// connection publishes. Then it sends those of the first, calls wait, and sends those of the
// second.
func newHolder(t *testing.T, engine *engine, wait func()) (url string) {
	t.Helper()
	listener := bustest.Listen(t)
	release := make(chan bool)
	serve := func(client net.Conn, number int) {
		server, err := net.Dial("tcp", strings.TrimPrefix(engine.url, "nats://"))
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		go pass(client, server, func([]byte) {})
		if number == 1 {
			held := hold(server, client)
			<-release
			server.Write(held)
			wait()
			release <- true
			return
		}
		pass(server, client, func(text []byte) {
			if number == 2 && isPublishing(text) {
				number = 0
				release <- true
				<-release
			}
		})
	}
	go func() {
		for number := 1; ; number++ {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(client, number)
		}
	}()
	return "nats://" + listener.Addr().String()
}

// hold sends what the client sends before its first message, and returns the rest.
func hold(server, client net.Conn) (held []byte) {
	buffer := make([]byte, 1<<20)
	for {
		size, err := client.Read(buffer)
		text := buffer[:size]
		if held != nil || isPublishing(text) {
			held = append(held, text...)
		} else {
			server.Write(text)
		}
		if err != nil {
			return held
		}
	}
}

// isPublishing reports whether a client's text has a message.
func isPublishing(text []byte) bool {
	return bytes.Contains(text, []byte("HPUB "))
}

// The forwarder rejects the answer of another program in the stream's place.
func TestImpostor(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	process := engine.forward(source)
	await(t, stream, source.count, process)
	awaitPlace(t, source, 10, process)
	if err := engine.jetStream().DeleteStream(t.Context(), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	connection := engine.connect()
	_, err := connection.Subscribe("mbus.>", func(message *nats.Msg) {
		message.Respond([]byte(`{"stream":"ORDERS","seq":20,"count":10}`))
	})
	if err == nil {
		err = connection.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	source.write(10)
	process.expect(1, "does something besides the stream answer", "there is no stream ORDERS")
	if sequence, _ := source.sequence(); sequence != 10 {
		t.Errorf("the state is at %d", sequence)
	}
}

// A hostile description of the stream does not end the forwarder.
func TestHostileStream(t *testing.T) {
	t.Parallel()
	engine, source := prepareEngine(t, "enabled: false", ""), newSource(t)
	engine.start()
	connection := engine.connect()
	_, err := connection.Subscribe("$JS.API.STREAM.INFO.ORDERS", func(message *nats.Msg) {
		message.Respond([]byte(`{"config": {"subjects": ["mbus.>"], "allow_atomic": true},
			"state": {"subjects": {"mbus.orders": 1}}}`))
	})
	if err == nil {
		err = connection.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	source.write(10)
	process := engine.forward(source)
	process.reports("no responders available")
	process.stop("; retrying")
}

// The forwarder waits for a new leader, which may lag for a moment.
func TestLag(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(100)
	forwardAll(engine, source, stream)
	var lies atomic.Int32
	proxy := newProxy(t, engine, func(text []byte) {
		const truth, lie = `"last_seq":100,`, `"last_seq": 99,`
		if bytes.Contains(text, []byte(truth)) && lies.Add(1) <= 5 {
			copy(text, bytes.Replace(text, []byte(truth), []byte(lie), 1))
		}
	})
	source.write(10)
	forwardAll(engine, source, stream, "-url", proxy.url)
	if lies.Load() <= 5 {
		t.Errorf("the stream's end was asked for %d times", lies.Load())
	}
	compare(t, stream, source.count)
}
