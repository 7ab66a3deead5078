//go:build unix

package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
)

// The versions of the server and of the nats command that the tests install.
const (
	serverModule = "github.com/nats-io/nats-server/v2@v2.15.2"
	toolModule   = "github.com/nats-io/natscli/nats@v0.5.1"
)

// installed returns the path of a command: of the one on the PATH, if isGood accepts it, or
// else of the one in the tests' cache, into which it installs the command. If it can't, it
// skips the test.
func installed(t *testing.T, name, module string, isGood func(path string) bool) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	if path, err := exec.LookPath(name); err == nil && isGood(path) {
		return path
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("NOT TESTED: there is no %s: %v", name, err)
	}
	_, version, _ := strings.Cut(module, "@")
	directory := filepath.Join(cache, "mbus-test", name+"-"+version)
	path := filepath.Join(directory, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	installation := exec.Command("go", "install", module)
	installation.Env = append(os.Environ(), "GOBIN="+directory, "GOFLAGS=")
	if output, err := installation.CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: there is no %s, and go install %s: %v\n%s", name, module, err, output)
	}
	return path
}

var installing sync.Mutex // tests run in parallel

// serverPath returns the path of a nats-server that takes atomic batches.
func serverPath(t *testing.T) string {
	t.Helper()
	return installed(t, "nats-server", serverModule, func(path string) bool {
		output, err := exec.Command(path, "-v").Output()
		version := regexp.MustCompile(`v(\d+)\.(\d+)\.`).FindSubmatch(output)
		if err != nil || version == nil {
			return false
		}
		major, _ := strconv.Atoi(string(version[1]))
		minor, _ := strconv.Atoi(string(version[2]))
		return major > 2 || major == 2 && minor >= 12
	})
}

// engine is a nats-server on a free port of the loopback interface.
type engine struct {
	t       *testing.T
	path    string
	config  string // a file
	url     string
	process *process
}

// newEngine starts a server with the default configuration.
func newEngine(t *testing.T) *engine {
	t.Helper()
	engine := prepareEngine(t, "", "")
	engine.start()
	return engine
}

// prepareEngine returns a server that is not started. Its configuration has the settings
// jetStream in the JetStream section, and others outside it.
func prepareEngine(t *testing.T, jetStream, others string) *engine {
	t.Helper()
	address := bustest.FreeAddress(t)
	directory := t.TempDir()
	engine := &engine{t: t, path: serverPath(t), config: filepath.Join(directory, "config"),
		url: "nats://" + address}
	text := fmt.Sprintf("listen: %q\njetstream { store_dir: %q\n%s }\n%s\n",
		address, filepath.Join(directory, "store"), jetStream, others)
	if err := os.WriteFile(engine.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return engine
}

// start starts the server, and waits until it listens.
func (e *engine) start() {
	e.t.Helper()
	e.launch()
	bustest.Until(e.t, "a server that listens", func() bool {
		return strings.Contains(e.process.Stderr.String(), "Server is ready")
	})
}

// launch starts the server, and does not wait.
func (e *engine) launch() {
	e.t.Helper()
	e.process = start(e.t, exec.Command(e.path, "-c", e.config))
}

// jetStream returns the JetStream of the server, over a connection that reconnects.
func (e *engine) jetStream(options ...nats.Option) jetstream.JetStream {
	e.t.Helper()
	connection := e.connect(options...)
	timeout := jetstream.WithDefaultTimeout(bustest.Patience)
	jetStream, err := jetstream.New(connection, timeout)
	if err != nil {
		e.t.Fatal(err)
	}
	return jetStream
}

func (e *engine) connect(options ...nats.Option) *nats.Conn {
	e.t.Helper()
	options = append(options, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.Timeout(bustest.Patience))
	connection, err := nats.Connect(e.url, options...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(connection.Close)
	return connection
}

// stream makes a stream with config. Its default name is ORDERS, its default subject mbus.>.
func (e *engine) stream(config jetstream.StreamConfig) jetstream.Stream {
	e.t.Helper()
	if config.Name == "" {
		config.Name = "ORDERS"
	}
	if config.Subjects == nil {
		config.Subjects = []string{"mbus.>"}
	}
	config.AllowAtomicPublish, config.AllowDirect = true, true
	stream, err := e.jetStream().CreateStream(e.t.Context(), config)
	if err != nil {
		e.t.Fatal(err)
	}
	return stream
}

// recreate deletes the stream ORDERS, and makes it again.
func (e *engine) recreate() jetstream.Stream {
	e.t.Helper()
	if err := e.jetStream().DeleteStream(e.t.Context(), "ORDERS"); err != nil {
		e.t.Fatal(err)
	}
	return e.stream(jetstream.StreamConfig{})
}

// forward starts a forwarder of a source into the stream ORDERS.
func (e *engine) forward(source *source, arguments ...string) *process {
	e.t.Helper()
	usual := []string{"-log", source.path, "-state", source.path + "_state",
		"-stream", "ORDERS", "-url", e.url, "-timeout", "10s"}
	return start(e.t, exec.Command(forwarder, append(usual, arguments...)...))
}

// state returns the state of a stream; answered is false if the server does not answer.
func state(stream jetstream.Stream) (state jetstream.StreamState, answered bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	info, err := stream.Info(ctx)
	if err != nil {
		return jetstream.StreamState{}, false
	}
	return info.State, true
}

// await waits until the stream ends at count. The deadline moves while the stream grows.
func await(t *testing.T, stream jetstream.Stream, count int, process *process) {
	t.Helper()
	awaitCount(t, count, process, func() uint64 {
		state, _ := state(stream)
		return state.LastSeq
	})
}

// awaitPlace waits until the state of a source is at count. The deadline moves while the
// state does.
func awaitPlace(t *testing.T, source *source, count int, process *process) {
	t.Helper()
	awaitCount(t, count, process, func() uint64 {
		sequence, _ := source.sequence()
		return sequence
	})
}

func awaitCount(t *testing.T, count int, process *process, current func() uint64) {
	t.Helper()
	const patience = 2 * bustest.Patience
	deadline, before := time.Now().Add(patience), uint64(0)
	for {
		now := current()
		switch {
		case now == uint64(count):
			return
		case now > uint64(count):
			t.Fatalf("it is at %d, want %d", now, count)
		case now > before:
			deadline, before = time.Now().Add(patience), now
		case time.Now().After(deadline):
			t.Fatalf("it stays at %d, want %d; the forwarder reported:\n%s",
				before, count, process.Stderr)
		}
		select {
		case <-process.Ended:
			if current() != uint64(count) {
				t.Fatalf("the forwarder ended at %d, want %d; it reported:\n%s",
					before, count, process.Stderr)
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// compare fails the test unless the stream has exactly the messages of the log, each once
// and in order. The stream may have removed messages from its start.
func compare(t *testing.T, stream jetstream.Stream, count int) {
	t.Helper()
	state, answered := state(stream)
	if !answered || state.LastSeq != uint64(count) {
		t.Fatalf("the stream ends at %d, want %d", state.LastSeq, count)
	}
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	timer := time.AfterFunc(6*bustest.Patience, messages.Stop)
	defer timer.Stop()
	for sequence := state.FirstSeq; state.Msgs > 0 && sequence <= state.LastSeq; sequence++ {
		message, err := messages.Next()
		if err != nil {
			t.Fatal(err)
		}
		compareMessage(t, message, sequence)
	}
}

// compareMessage fails the test unless message is the log's message of this sequence.
func compareMessage(t *testing.T, message jetstream.Msg, sequence uint64) {
	t.Helper()
	metadata, err := message.Metadata()
	if err != nil || metadata.Sequence.Stream != sequence {
		t.Fatalf("after %d comes %+v, %v", sequence-1, metadata, err)
	}
	_, subject, data := content(int(sequence - 1))
	if message.Subject() != "mbus."+subject || !bytes.Equal(message.Data(), data) {
		t.Fatalf("message %d is for %s: %.50q, want for %s: %.50q",
			sequence, message.Subject(), message.Data(), subject, data)
	}
}

// publish publishes a message that is not from the log.
func (e *engine) publish(subject, data string) {
	e.t.Helper()
	if _, err := e.jetStream().Publish(e.t.Context(), subject, []byte(data)); err != nil {
		e.t.Fatal(err)
	}
}

// worker receives the messages of a work queue, and acknowledges them. Then the queue removes them.
type worker struct {
	mutex    sync.Mutex
	received map[uint64]jetstream.Msg // by sequence
}

// work starts a worker on a stream. It works until the test ends.
func work(t *testing.T, stream jetstream.Stream) *worker {
	t.Helper()
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	worker := &worker{received: make(map[uint64]jetstream.Msg)}
	consuming, err := consumer.Consume(func(message jetstream.Msg) {
		if metadata, err := message.Metadata(); err == nil {
			worker.mutex.Lock()
			worker.received[metadata.Sequence.Stream] = message
			worker.mutex.Unlock()
		}
		message.Ack()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consuming.Stop)
	return worker
}

// compare fails the test unless the worker has received exactly the messages of the log.
func (w *worker) compare(t *testing.T, count int) {
	t.Helper()
	received := func() int {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		return len(w.received)
	}
	bustest.Until(t, "all messages at the worker", func() bool { return received() >= count })
	for sequence := uint64(1); sequence <= uint64(count); sequence++ {
		message := w.received[sequence]
		if message == nil {
			t.Fatalf("received %d messages, want %d; message %d is missing",
				received(), count, sequence)
		}
		compareMessage(t, message, sequence)
	}
}

// awaitFirst waits until the state of a source has a message.
func awaitFirst(t *testing.T, source *source) {
	t.Helper()
	bustest.Until(t, "a message in the state", func() bool {
		sequence, _ := source.sequence()
		return sequence > 0
	})
}

// awaitState waits until a state has a place. A session saves one before it sends.
func awaitState(t *testing.T, path string) {
	t.Helper()
	bustest.Until(t, "a place in the state", func() bool {
		_, found := saved(t, path)
		return found
	})
}

// sequence returns the sequence in the state of a source, and whether it has one.
func (s *source) sequence() (sequence uint64, found bool) {
	s.t.Helper()
	return saved(s.t, s.path+"_state")
}

// saved returns the sequence in a state, and whether it has one.
func saved(t *testing.T, path string) (sequence uint64, found bool) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	line := regexp.MustCompile(`save (\d+) .*sequence (\d+) message \w+ `)
	newest := 0
	for _, match := range line.FindAllStringSubmatch(string(text), -1) {
		if save, _ := strconv.Atoi(match[1]); save >= newest {
			newest = save
			sequence, _ = strconv.ParseUint(match[2], 10, 64)
		}
	}
	return sequence, newest > 0
}
