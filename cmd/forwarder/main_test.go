//go:build unix

// Package main_test runs the real forwarder with a real nats-server.
//
// "make torture" runs the long form of these tests, which compares the stream with the log,
// message by message, and prints figures. "make bench" compares the forwarder with a loop of the
// client's PublishAsync.
package main_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/escape"
)

// forwarder is the path of the command under test.
var forwarder string

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "6") // the tests mostly wait
	binaries := bustest.Build(".")
	forwarder = filepath.Join(binaries, "forwarder")
	status := m.Run()
	os.RemoveAll(binaries)
	os.Exit(status)
}

// process is a command that a test has started.
type process struct {
	*bustest.Process
	t *testing.T
}

// start starts a command.
func start(t *testing.T, command *exec.Cmd) *process {
	t.Helper()
	return &process{bustest.Start(t, command), t}
}

// expect fails the test unless the process ends with status, and its standard error has each
// text of want. With status 0 and no want, standard error must be empty.
func (process *process) expect(status int, want ...string) {
	process.t.Helper()
	got, said := process.Wait(), process.Stderr.String()
	if got != status {
		process.t.Fatalf("status %d, want %d; it said:\n%s", got, status, said)
	}
	for _, text := range want {
		if !strings.Contains(said, text) {
			process.t.Errorf("it said:\n%s\nwant in it: %s", said, text)
		}
	}
	if status == 0 && len(want) == 0 && said != "" {
		process.t.Errorf("it said:\n%s", said)
	}
}

// stop sends SIGTERM to the process, and expects status 0 and want.
func (process *process) stop(want ...string) {
	process.t.Helper()
	process.Signal(syscall.SIGTERM)
	process.expect(0, want...)
}

// says waits until the standard error of the process has text.
func (process *process) says(text string) {
	process.t.Helper()
	bustest.Until(process.t, "the words "+text, func() bool {
		select {
		case <-process.Ended:
			process.t.Fatalf("it ended, and said:\n%s\nwant: %s", process.Stderr, text)
		default:
		}
		return strings.Contains(process.Stderr.String(), text)
	})
}

// source is a log that the test writes in a broker's place.
type source struct {
	t       *testing.T
	path    string
	file    *os.File
	count   int // of messages
	rotated int // count of rotations
}

func newSource(t *testing.T) *source {
	t.Helper()
	source := &source{t: t, path: filepath.Join(t.TempDir(), "mbus.log")}
	source.open()
	t.Cleanup(func() { source.file.Close() })
	return source
}

func (source *source) open() {
	source.t.Helper()
	file, err := os.OpenFile(source.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		source.t.Fatal(err)
	}
	source.file = file
}

// topics has topics of each kind, with their subjects.
var topics = [...]struct{ name, subject string }{
	{"orders", "orders"}, {"orders.eu", "orders.eu"}, {".a..b.", "%2Ea%2E%2Eb%2E"},
	{"it's", "it%27s"}, {"a b*>%", "a%20b%2A%3E%25"}, {"żółw", "%C5%BC%C3%B3%C5%82w"},
	{`\n`, "%5Cn"}, {"_-9Z", "_-9Z"},
}

// content returns the topic, the subject and the data of the message with a number, from 0.
// The data has arbitrary bytes.
func content(number int) (topic, subject string, data []byte) {
	random := rand.New(rand.NewPCG(1, uint64(number)))
	data = fmt.Appendf(nil, "%d ", number)
	for range random.IntN(12) {
		data = binary.LittleEndian.AppendUint64(data, random.Uint64())
	}
	if number%1000 == 999 {
		data = append(data, bytes.Repeat([]byte{byte(number)}, 50_000)...)
	}
	which := topics[random.IntN(len(topics))]
	return which.name, which.subject, data
}

// appendLine appends the broker's line for a message to text.
func appendLine(text []byte, topic string, data []byte) []byte {
	text = append(text, "2024/06/02 10:39:55 Received new message from topic '"...)
	text = escape.AppendName(text, []byte(topic))
	text = escape.Append(append(text, "': '"...), data)
	return append(text, "'\n"...)
}

// write appends lines for count messages, and other lines of a broker.
func (source *source) write(count int) {
	source.t.Helper()
	var text []byte
	for range count {
		topic, _, data := content(source.count)
		if source.count%10 == 0 {
			text = append(text,
				"2024/06/02 10:39:55 10 new messages dispatched on topic orders\n"...)
		}
		text = appendLine(text, topic, data)
		source.count++
	}
	if _, err := source.file.Write(text); err != nil {
		source.t.Error(err)
	}
}

// rotate renames the log and starts a new one.
func (source *source) rotate() {
	source.t.Helper()
	source.rotated++
	rotated := fmt.Sprintf("%s-%06d", source.path, source.rotated)
	if err := os.Rename(source.path, rotated); err != nil {
		source.t.Error(err)
	}
	source.file.Close()
	source.open()
}

// load writes messages, and sometimes rotates the log, until stop is called. Until stop has
// returned, nothing else may use source.
func (source *source) load() (stop func()) {
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := 1; !stopped.Load(); round++ {
			source.write(1 + rand.IntN(200))
			if round%200 == 0 {
				source.rotate()
			}
			time.Sleep(10 * time.Millisecond) // the load, not a wait
		}
	}()
	stop = func() {
		stopped.Store(true)
		<-done
	}
	source.t.Cleanup(stop)
	return stop
}
