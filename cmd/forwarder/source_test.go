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
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"mbus/internal/shared/escape"
	"mbus/internal/shared/logfile"
)

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
