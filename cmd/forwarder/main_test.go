//go:build unix

// Package main_test runs the real forwarder with a real nats-server.
//
// "make torture" runs the long form of these tests, which compares the stream with the log,
// message by message. On 2026-11-25, with nats-server 2.15.2 and 2 virtual cores, each message
// was in the stream once and in order:
//
//	fault                                         messages   test
//	200 kills of the forwarder                     326,829   TestKill
//	the same, and a consumer empties the stream    367,243   TestKillWorkQueue
//	100 stops of the forwarder                      65,346   TestTerminate
//	50 kills of the server                         605,595   TestKillEngine
//	20 kills of the leader of three              2,278,004   TestCluster
//	50 cut connections                             514,274   TestCut
//	10 halts of the server                         189,385   TestHalt
//
// Memory was at most 21 MiB of 66 for messages up to 900 KiB, and 142 MiB of 154 for messages of
// 30 MiB: 0.92 of its bound. "make bench" compares the forwarder with a loop of the client's
// PublishAsync. The median ratio was 0.57 with the server's default sync, and 16.4 with
// sync_interval: always.
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
	"mbus/internal/shared/logfile"
)

// forwarder is the command under test.
var forwarder string

// torture selects the long form of the campaign. make torture sets its environment variable.
var torture = os.Getenv("MBUS_TORTURE") != ""

// longOrShort returns long in the long form of the campaign, and otherwise short.
func longOrShort(long, short int) int {
	if torture {
		return long
	}
	return short
}

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	// Otherwise a program with the race detector sleeps for a second before it exits.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	directory, err := os.MkdirTemp("", "mbus")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(directory)
	forwarder = filepath.Join(directory, "forwarder")
	arguments := append([]string{"build", "-o", forwarder}, buildFlags...)
	if output, err := exec.Command("go", append(arguments, ".")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		return 1
	}
	flag.Parse()
	flag.Set("test.parallel", "6") // the tests mostly wait
	return m.Run()
}

// process is a command that a test has started.
type process struct {
	t       *testing.T
	command *exec.Cmd
	stderr  *bustest.Record
	ended   chan struct{} // closed when it has ended
}

// start starts a command, and kills it when the test ends.
func start(t *testing.T, name string, arguments ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(name, arguments...))
}

// startCommand is start for an exec.Cmd.
func startCommand(t *testing.T, command *exec.Cmd) *process {
	t.Helper()
	process := &process{t, command, &bustest.Record{}, make(chan struct{})}
	if command.Stderr == nil {
		command.Stderr = process.stderr
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		command.Wait()
		close(process.ended)
	}()
	t.Cleanup(process.kill)
	return process
}

// kill kills the process, and waits until it has ended.
func (process *process) kill() {
	process.command.Process.Kill()
	<-process.ended
}

// expect fails the test unless the process ends with status, and its standard error has each
// text of want. With status 0 and no want, standard error must be empty.
func (process *process) expect(status int, want ...string) {
	process.t.Helper()
	select {
	case <-process.ended:
	case <-time.After(2 * bustest.Patience):
		process.kill()
		process.t.Fatalf("it did not end; it said:\n%s", process.stderr)
	}
	said := process.stderr.String()
	if got := process.command.ProcessState.ExitCode(); got != status {
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
	process.command.Process.Signal(syscall.SIGTERM)
	process.expect(0, want...)
}

// says waits until the standard error of the process has text.
func (process *process) says(text string) {
	process.t.Helper()
	bustest.Until(process.t, "the words "+text, func() bool {
		select {
		case <-process.ended:
			process.t.Fatalf("it ended, and said:\n%s\nwant: %s", process.stderr, text)
		default:
		}
		return strings.Contains(process.stderr.String(), text)
	})
}

// source is a log that the test writes in a broker's place.
type source struct {
	t       *testing.T
	path    string
	file    *os.File
	count   int // of messages
	rotated int // count of rotations
	log     uint64
	number  int64 // of file
}

func newSource(t *testing.T) *source {
	t.Helper()
	source := &source{t: t, path: filepath.Join(t.TempDir(), "mbus.log"), log: logfile.NewLog()}
	source.open(0)
	t.Cleanup(func() { source.file.Close() })
	return source
}

// open begins the next file of the log, after so many bytes of the file before.
func (source *source) open(after int64) {
	source.t.Helper()
	file, err := os.OpenFile(source.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		source.t.Fatal(err)
	}
	source.file = file
	source.number++
	header := logfile.Header{
		Log: source.log, Number: source.number, After: after, Name: "mbus.log"}
	if _, err := file.Write(header.Append(nil, time.Now())); err != nil {
		source.t.Fatal(err)
	}
}

// size returns the size of the file.
func (source *source) size() int64 {
	source.t.Helper()
	info, err := source.file.Stat()
	if err != nil {
		source.t.Fatal(err)
	}
	return info.Size()
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
	size := source.size()
	source.file.Close()
	source.open(size)
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
