//go:build unix

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
func (s *source) open(after int64) {
	s.t.Helper()
	file, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	s.file = file
	s.number++
	header := logfile.Header{
		Log: s.log, Number: s.number, After: after, Name: "mbus.log"}
	if _, err := file.Write(header.Append(nil, time.Now())); err != nil {
		s.t.Fatal(err)
	}
}

// size returns the size of the file.
func (s *source) size() int64 {
	s.t.Helper()
	info, err := s.file.Stat()
	if err != nil {
		s.t.Fatal(err)
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
func (s *source) write(count int) {
	s.t.Helper()
	var text []byte
	for range count {
		topic, _, data := content(s.count)
		if s.count%10 == 0 {
			text = append(text,
				"2024/06/02 10:39:55 10 new messages dispatched on topic orders\n"...)
		}
		text = appendLine(text, topic, data)
		s.count++
	}
	if _, err := s.file.Write(text); err != nil {
		s.t.Error(err)
	}
}

// rotate renames the log and starts a new one.
func (s *source) rotate() {
	s.t.Helper()
	s.rotated++
	rotated := fmt.Sprintf("%s-%06d", s.path, s.rotated)
	if err := os.Rename(s.path, rotated); err != nil {
		s.t.Error(err)
	}
	size := s.size()
	s.file.Close()
	s.open(size)
}

// load writes messages, and sometimes rotates the log, until stop is called. Until stop has
// returned, nothing else may use source.
func (s *source) load() (stop func()) {
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := 1; !stopped.Load(); round++ {
			s.write(1 + rand.IntN(200))
			if round%200 == 0 {
				s.rotate()
			}
			time.Sleep(10 * time.Millisecond) // the load, not a wait
		}
	}()
	stop = func() {
		stopped.Store(true)
		<-done
	}
	s.t.Cleanup(stop)
	return stop
}
