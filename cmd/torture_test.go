//go:build linux

package cmd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// The campaign runs in a short form with all other tests, and in its long form
// by make torture, which sets this variable.
var torture = os.Getenv("MBUS_TORTURE") != ""

// either returns the long form's number or the short form's.
func either(long, short int) int {
	if torture {
		return long
	}
	return short
}

// file is a log in a file.
type file string

func (file file) String() string {
	text, _ := os.ReadFile(string(file))
	return string(text)
}

// startInFile starts a broker whose log is a file, as it is in real use.
func startInFile(t *testing.T, path string, arguments ...string) *daemon {
	t.Helper()
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command := command("broker", append([]string{"-pport", "0"}, arguments...)...)
	command.Stderr = log
	return startLogged(t, command, file(path))
}

// pipe is a log in a pipe, which is read only up to the listening line before
// the test says how.
type pipe struct {
	record
	reader *os.File
}

// startInPipe starts a broker whose log is a pipe.
func startInPipe(t *testing.T, arguments ...string) (*daemon, *pipe) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	t.Cleanup(func() { reader.Close() })
	pipe := &pipe{reader: reader}
	command := command("broker", append([]string{"-pport", "0"}, arguments...)...)
	command.Stderr = writer
	go func() {
		one := make([]byte, 1)
		for !regexp.MustCompile(`listening on .*\n`).MatchString(pipe.String()) {
			if _, err := reader.Read(one); err != nil {
				return
			}
			pipe.Write(one)
		}
	}()
	return startLogged(t, command, pipe), pipe
}

// readAll reads the rest of the pipe, a piece at a time.
func (pipe *pipe) readAll(t *testing.T, piece int, pause time.Duration) {
	t.Helper()
	buffer := make([]byte, piece)
	for {
		count, err := pipe.reader.Read(buffer)
		pipe.Write(buffer[:count])
		if err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			return
		}
		time.Sleep(pause)
	}
}

// memory returns the broker's resident memory, now (VmRSS) or at its peak
// (VmHWM), in bytes.
func (daemon *daemon) memory(which string) int {
	daemon.t.Helper()
	size, found := memory(daemon.command.Process.Pid, which)
	if !found {
		daemon.t.Fatalf("there is no %s of the broker", which)
	}
	return size
}

// memory returns a process's memory, or that it has none: it has ended.
func memory(pid int, which string) (size int, found bool) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	line := regexp.MustCompile(which + `:\s*(\d+) kB`).FindSubmatch(status)
	if line == nil {
		return 0, false
	}
	kib, _ := strconv.Atoi(string(line[1]))
	return kib << 10, true
}

// descriptors returns how many files and sockets the broker has open.
func (daemon *daemon) descriptors() int {
	daemon.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", daemon.command.Process.Pid))
	if err != nil {
		daemon.t.Fatal(err)
	}
	return len(entries)
}

// dial connects to the broker.
func (daemon *daemon) dial() *net.TCPConn {
	daemon.t.Helper()
	connection, err := net.Dial("tcp", daemon.address())
	if err != nil {
		daemon.t.Fatal(err)
	}
	connection.SetDeadline(time.Now().Add(patience))
	return connection.(*net.TCPConn)
}

// post sends the bytes of a payload and returns the reply.
func (daemon *daemon) post(payload []byte) (*apiv1.Reply, error) {
	daemon.t.Helper()
	connection := daemon.dial()
	defer connection.Close()
	connection.Write(payload) // a refusal may come before the end
	connection.CloseWrite()
	answer, err := io.ReadAll(connection)
	reply, wrong := decoder.NewMsgpackDecoder(1 << 20).DecodeReply(answer)
	if wrong != nil {
		return nil, fmt.Errorf("the answer is %q: %w", answer, errors.Join(err, wrong))
	}
	return reply, nil
}

// sender returns a producer for the broker.
func (daemon *daemon) sender() *producer.Producer {
	daemon.t.Helper()
	config := producer.DefaultConfig()
	config.Host, config.Port = daemon.host, daemon.port
	sender, err := producer.New(config)
	if err != nil {
		daemon.t.Fatal(err)
	}
	return sender
}

// repeated returns a payload of count times the same message.
func repeated(t *testing.T, count int, topic string, data []byte) []byte {
	t.Helper()
	messages := make([]*apiv1.Message, count)
	for i := range messages {
		messages[i] = &apiv1.Message{Topic: topic, Data: data}
	}
	return encode(t, messages)
}

// encode returns the payload of messages.
func encode(t *testing.T, messages []*apiv1.Message) []byte {
	t.Helper()
	payload, err := encoder.NewMsgpackEncoder().Encode(messages)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// The pieces of a message, written by hand from the msgpack specification.
const (
	topicKey = "\xa5Topic"
	dataKey  = "\xa4Data"
	good     = "\x82" + topicKey + "\xa1a" + dataKey + "\xc4\x011"
)

// hostile returns payloads, by name, with how many messages are to be accepted
// of each; -1: refused.
func hostile(maxPayload int) map[string]struct {
	payload string
	want    int
} {
	const refused = -1
	payloads := make(map[string]struct {
		payload string
		want    int
	})
	add := func(name, payload string, want int) {
		payloads[name] = struct {
			payload string
			want    int
		}{payload, want}
	}
	big := func(head byte, size int, length int64) string { // a header with a length of size bytes
		header := []byte{head}
		for shift := 8 * (size - 1); shift >= 0; shift -= 8 {
			header = append(header, byte(length>>shift))
		}
		return string(header)
	}

	whole := "\xdc\x00\x03" + good + good + good
	for cut := 1; cut < len(whole); cut++ {
		add(fmt.Sprint("truncated at ", cut), whole[:cut], refused)
	}
	for _, place := range []struct{ name, before, text, after string }{
		{"key", "\x82", "Topic", "\xa1a" + dataKey + "\xc0"},
		{"topic", "\x82" + topicKey, "a", dataKey + "\xc0"},
		{"data", "\x82" + topicKey + "\xa1a" + dataKey, "1", ""},
		{"data first", "\x82" + dataKey, "1", topicKey + "\xa1a"},
	} {
		for _, form := range []struct {
			name  string
			head  byte
			size  int
			valid bool
		}{
			{"str8", 0xd9, 1, true}, {"str16", 0xda, 2, true}, {"str32", 0xdb, 4, true},
			{"bin8", 0xc4, 1, false}, {"bin16", 0xc5, 2, false}, {"bin32", 0xc6, 4, false},
		} {
			rest := place.text + place.after
			want := refused
			if form.valid || strings.HasPrefix(place.name, "data") {
				want = 1
			}
			add(fmt.Sprint("long form ", form.name, " of the ", place.name), place.before+big(form.head, form.size, int64(len(place.text)))+rest, want)
			for name, length := range map[string]int64{"one more": int64(len(place.text)) + 1, "one less": int64(len(place.text)) - 1,
				"all and one more": int64(len(rest)) + 1, "the most": 1<<(8*form.size) - 1, "half the most": 1 << (8*form.size - 1)} {
				add(fmt.Sprint(form.name, " of the ", place.name, " with ", name), place.before+big(form.head, form.size, length)+rest, refused)
			}
		}
	}
	for name, head := range map[string]string{"fixarray": "\x93", "array16": big(0xdc, 2, 3), "array32": big(0xdd, 4, 3)} {
		add(name+" of 3", head+good+good+good, 3)
		add(name+" with one less", head+good+good+good+good, refused)
		add(name+" with one more", head+good+good, refused)
	}
	add("array16 with the most", big(0xdc, 2, 65535)+good, refused)
	add("array32 with the most", big(0xdd, 4, 1<<32-1)+good, refused)
	add("array32 with the sign", big(0xdd, 4, 1<<31)+good, refused)
	add("array32 of nothing", big(0xdd, 4, 0), 0)
	for entries := range 16 {
		if entries != 2 {
			add(fmt.Sprint("map of ", entries), string([]byte{byte(0x80 + entries)})+strings.Repeat(good[1:], 8), refused)
		}
	}
	add("map16", big(0xde, 2, 2)+good[1:], 1)
	add("map32", big(0xdf, 4, 2)+good[1:], 1)
	add("map16 with the most", big(0xde, 2, 65535)+good[1:], refused)
	add("map32 with the most", big(0xdf, 4, 1<<32-1)+good[1:], refused)
	add("map32 that wraps to 2", big(0xdf, 4, 1<<31+2)+good[1:], refused)

	places := map[string]string{
		"root": "", "element": "\x91", "second element": "\x92" + good, "key": "\x82", "second key": "\x82" + topicKey + "\xa1a",
		"topic": "\x82" + topicKey, "data": "\x82" + topicKey + "\xa1a" + dataKey,
	}
	for place, before := range places {
		for depth, count := range map[string]int{"10": 10, "1,000": 1000, "1,000,000": 1_000_000} {
			add(depth+" arrays at the "+place, before+strings.Repeat("\x91", count), refused)
			add(depth+" maps at the "+place, before+strings.Repeat("\x81", count), refused)
			add(depth+" maps of maps at the "+place, before+strings.Repeat("\x81\xa1k", count/3), refused)
		}
		for code := range 256 {
			want := refused
			switch {
			case place == "root" && code == 0x90:
				want = 0
			case place == "data" && (code == 0xc0 || code == 0xa0):
				want = 1
			}
			add(fmt.Sprintf("byte %02x at the %s", code, place), before+string([]byte{byte(code)}), want)
		}
		for name, head := range map[string]string{"fixext1": "\xd4\x01", "fixext2": "\xd5\x01", "fixext4": "\xd6\x01", "fixext8": "\xd7\x01",
			"fixext16": "\xd8\x01", "ext8": "\xc7\x00\x01", "ext16": "\xc8\x00\x00\x01", "ext32": "\xc9\x00\x00\x00\x00\x01"} {
			add(name+" before a good map at the "+place, before+head+good, refused)
		}
	}
	add("Topic twice", "\x82"+topicKey+"\xa1a"+topicKey+"\xa1b", refused)
	add("Data twice", "\x82"+dataKey+"\xc0"+dataKey+"\xc0", refused)
	add("an unknown key", "\x82"+topicKey+"\xa1a"+"\xa3Foo\xc0", refused)
	add("a key in lower case", "\x82\xa5topic\xa1a"+dataKey+"\xc0", refused)
	add("a key with a NUL", "\x82\xa6Topic\x00\xa1a"+dataKey+"\xc0", refused)
	for _, length := range []int{0, 1, 31, 32, 254, 255, 256, 65535} {
		want := 1
		if length < 1 || length > 255 {
			want = refused
		}
		add(fmt.Sprint("a topic of ", length), "\x82"+topicKey+big(0xda, 2, int64(length))+strings.Repeat("x", length)+dataKey+"\xc0", want)
		add(fmt.Sprint("an unknown key of ", length), "\x82"+big(0xda, 2, int64(length))+strings.Repeat("\xff", length)+"\xa1a"+dataKey+"\xc0", refused)
	}
	frame := "\x82" + topicKey + "\xa1a" + dataKey + big(0xc6, 4, 0)
	for _, more := range []int{-1, 0, 1} {
		length := maxPayload + more - len(frame)
		want := 1
		if more > 0 {
			want = refused
		}
		add(fmt.Sprintf("the limit %+d", more), "\x82"+topicKey+"\xa1a"+dataKey+big(0xc6, 4, int64(length))+strings.Repeat("x", length), want)
	}
	add("many times the limit", strings.Repeat(good, 1<<20), refused)
	for name, text := range map[string]string{
		"a line": "x'\n2024/06/02 10:39:55 Received new message from topic 'orders': 'forged'", "a carriage return": "x\rforged",
		"a terminal escape": "\x1b[2J\x1b]0;title\x07", "C1": "\u009b2J", "a line separator": "\u2028forged", "right to left": "\u202edegrof",
		"not UTF-8": "\xff\xfe\xc0\x80", "a surrogate": "\xed\xa0\x80", "a NUL": "a\x00b", "a backslash and n": "a\nb",
	} {
		header := string([]byte{0xd9, byte(len(text))})
		add("data with "+name, "\x82"+topicKey+"\xa1a"+dataKey+header+text, 1)
		add("a topic with "+name, "\x82"+topicKey+header+text+dataKey+"\xc0", refused)
		add("an unknown key with "+name, "\x82"+header+text+"\xc0", refused)
	}
	for name, greeting := range map[string]string{
		"HTTP": "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"TLS": "\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03", "SSH": "SSH-2.0-OpenSSH_9.2p1\r\n", "SMTP": "EHLO localhost\r\n",
		"Redis": "*1\r\n$4\r\nPING\r\n", "MQTT": "\x10\x0c\x00\x04MQTT\x04\x02\x00<\x00\x00", "AMQP": "AMQP\x00\x00\x09\x01",
		"NATS": "CONNECT {}\r\nPING\r\n", "beanstalkd": "put 0 0 60 5\r\nhello\r\n", "memcached": "stats\r\n", "nsq": "  V2",
		"PostgreSQL": "\x00\x00\x00\x08\x04\xd2\x16\x2f", "JSON": `{"Topic":"a","Data":"1"}`, "DNS": "\x00\x1d\x12\x34\x01\x00\x00\x01", "SMB": "\x00\x00\x00\x85\xffSMB",
	} {
		add("a greeting in "+name, greeting, refused)
	}
	return payloads
}

// After each of a great many hostile payloads the broker has answered as it
// should, is alive, accepts the next good payload, and has not grown.
func TestHostilePayloads(t *testing.T) {
	const maxPayload, maxQueued = 1 << 20, 8 << 20
	broker := startInFile(t, filepath.Join(t.TempDir(), "log"), "-interval", "10ms",
		"-max-payload", fmt.Sprint(maxPayload), "-max-queued", fmt.Sprint(maxQueued))
	limit := maxQueued*5/2 + maxPayload*6
	if buildFlags != nil {
		limit *= 8 // the race detector's own memory
	}
	payloads := hostile(maxPayload)
	refused, accepted := 0, 0
	for name, test := range payloads {
		reply, err := broker.post([]byte(test.payload))
		switch {
		case err != nil:
			t.Fatalf("%s: %v", name, err)
		case test.want < 0 && (reply.Accepted != 0 || reply.Error == ""), test.want >= 0 && *reply != apiv1.Reply{Accepted: test.want}:
			t.Errorf("%s: got %+v, want %d accepted", name, *reply, test.want)
		}
		if test.want < 0 {
			refused++
		}
		accepted += max(test.want, 0)
		select {
		case <-broker.ended:
			t.Fatalf("%s: the broker has ended:\n%s", name, broker.log)
		default:
		}
		if reply, err := broker.post([]byte(good)); err != nil || *reply != (apiv1.Reply{Accepted: 1}) {
			t.Fatalf("after %s: %+v, %v", name, reply, err)
		}
		if peak := broker.memory("VmHWM"); peak > limit {
			t.Fatalf("after %s: %d bytes of memory, over %d", name, peak, limit)
		}
	}
	t.Logf("figure: %d hostile payloads: %d refused, the others taken for what they say; peak memory %d MiB, bound %d MiB",
		len(payloads), refused, broker.memory("VmHWM")>>20, limit>>20)
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	text := broker.log.String()
	if got := strings.Count(text, " Received new message from topic 'a': '"); got < accepted-20 {
		t.Errorf("%d messages in the log, want about %d", got, accepted)
	}
	if got := strings.Count(text, " refused payload from 127.0.0.1:"); got != refused {
		t.Errorf("%d refusals in the log, want %d", got, refused)
	}
	if line := regexp.MustCompile(`(?m)^(?:.{0,19}$|.{20}[^cnrRB\d])`).FindString(text); line != "" {
		t.Errorf("a line of the log is %q", line)
	}
}

// writer is one producer of a load: it sends numbered messages until that fails.
type writer struct {
	name    string
	acked   int // so many were accepted ...
	unknown int // ... and of so many more nobody knows
}

// load has count producers send batches to the broker until one of theirs is not
// accepted, and returns what they know then.
func (daemon *daemon) load(count, maxBatch int) (finish func() []*writer) {
	var group sync.WaitGroup
	writers := make([]*writer, count)
	for i := range writers {
		writer := &writer{name: fmt.Sprint("writer", i)}
		writers[i] = writer
		sender := daemon.sender()
		group.Go(func() {
			for {
				batch := make([]*apiv1.Message, 1+rand.IntN(maxBatch))
				for j := range batch {
					text := fmt.Sprintf("%s %d %s", writer.name, writer.acked+j, strings.Repeat("x", rand.IntN(200)))
					batch[j] = &apiv1.Message{Topic: fmt.Sprint("topic", i%2), Data: []byte(text)}
				}
				err := sender.Send(daemon.t.Context(), batch)
				if errors.Is(err, producer.ErrUnknown) {
					writer.unknown = len(batch)
				}
				if err != nil {
					return
				}
				writer.acked += len(batch)
			}
		})
	}
	return func() []*writer {
		group.Wait()
		return writers
	}
}

// verify compares a log with what the writers know: acknowledged is logged, in
// order, once; of a payload with an unknown outcome all or nothing; and no line
// is torn but the last, if torn allows that.
func verify(t *testing.T, text string, writers []*writer, torn bool) {
	t.Helper()
	next := make(map[string]int)
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			if !torn {
				t.Errorf("the last line is torn: %.100q", line)
			}
			break
		}
		if len(line) < 21 || line[4] != '/' || line[19] != ' ' {
			t.Fatalf("not a line of the log: %.100q", line)
		}
		rest, ok := strings.CutPrefix(line[20:], "Received new message from topic '")
		if !ok {
			continue
		}
		var topic, name string
		var number int
		if _, err := fmt.Sscanf(strings.Replace(rest, "': '", " ", 1), "%s %s %d", &topic, &name, &number); err != nil || !strings.HasSuffix(line, "'\n") {
			t.Fatalf("not a line of the log: %.100q: %v", line, err)
		}
		if number != next[name] {
			t.Fatalf("message %d of %s is where %d should be", number, name, next[name])
		}
		next[name]++
	}
	for _, writer := range writers {
		if got := next[writer.name]; got != writer.acked && (got != writer.acked+writer.unknown && !(torn && got > writer.acked && got < writer.acked+writer.unknown)) {
			t.Fatalf("%d messages of %s are logged, %d were acknowledged and %d are unknown", got, writer.name, writer.acked, writer.unknown)
		}
	}
}

// Killed at any moment, at interval 0, the broker has written what it has
// acknowledged.
func TestKill(t *testing.T) {
	rounds := either(200, 8)
	acked, torn := 0, 0
	for round := range rounds {
		broker := startInFile(t, filepath.Join(t.TempDir(), fmt.Sprint("log", round)), "-interval", "0")
		finish := broker.load(3, 40)
		time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
		broker.signal(syscall.SIGKILL)
		broker.wait()
		writers := finish()
		text := broker.log.String()
		verify(t, text, writers, true)
		for _, writer := range writers {
			acked += writer.acked
		}
		if !strings.HasSuffix(text, "\n") {
			torn++
		}
	}
	t.Logf("figure: %d kills at -interval 0: %d acknowledged messages, 0 of them not in the log; %d last lines torn", rounds, acked, torn)
}

// Stopped at any moment, the broker has written what it has acknowledged, once,
// and nothing else.
func TestStop(t *testing.T) {
	rounds := either(100, 8)
	acked, unknown := 0, 0
	for round := range rounds {
		interval := []string{"0", "1ms", "20ms", "1h"}[round%4]
		broker := startInFile(t, filepath.Join(t.TempDir(), fmt.Sprint("log", round)), "-interval", interval)
		finish := broker.load(4, 40)
		time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
		broker.signal(syscall.SIGTERM)
		if status := broker.wait(); status != 0 {
			t.Fatalf("status %d:\n%s", status, broker.log)
		}
		writers := finish()
		verify(t, broker.log.String(), writers, false)
		for _, writer := range writers {
			acked += writer.acked
			unknown += writer.unknown
		}
	}
	if unknown > 0 {
		t.Errorf("a stop left the outcome of %d messages unknown", unknown)
	}
	t.Logf("figure: %d stops under load: %d acknowledged messages, each in the log once, in order; %d unknown outcomes", rounds, acked, unknown)
}

// The signal may come as soon as the broker says that it listens.
func TestStopAtOnce(t *testing.T) {
	for range either(50, 3) {
		broker := startBroker(t)
		broker.signal(syscall.SIGTERM)
		if status := broker.wait(); status != 0 {
			t.Fatalf("status %d:\n%s", status, broker.log)
		}
	}
}

// On a disk that is full, messages are kept until there is room.
func TestDiskFull(t *testing.T) {
	directory := t.TempDir()
	if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("no small disk can be mounted here: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(directory, 0) })
	filler := filepath.Join(directory, "filler")
	if err := os.WriteFile(filler, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(directory, "log")
	broker := startInFile(t, path, "-interval", "20ms")
	sender := broker.sender()
	const count, batch = 1000, 10
	text := strings.Repeat("x", 100)
	for first := 0; first < count; first += batch {
		var messages []*apiv1.Message
		for i := range batch {
			messages = append(messages, &apiv1.Message{Topic: "topic0", Data: []byte(fmt.Sprintf("writer0 %d %s", first+i, text))})
		}
		if err := sender.Send(t.Context(), messages); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "a full disk", func() bool { // the log has not grown for more than an interval
		size := len(broker.log.String())
		time.Sleep(50 * time.Millisecond)
		return size == len(broker.log.String())
	})
	if strings.Contains(broker.log.String(), fmt.Sprintf("writer0 %d ", count-1)) {
		t.Fatal("the disk was not full")
	}
	before := len(broker.log.String())
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	until(t, "the last message", func() bool { return strings.Contains(broker.log.String(), fmt.Sprintf("writer0 %d ", count-1)) })
	until(t, "the end of the outage", func() bool { return strings.Contains(broker.log.String(), "no space left on device\n") })
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	verify(t, broker.log.String(), []*writer{{name: "writer0", acked: count}}, false)
	t.Logf("figure: a full disk after %d bytes: %d messages accepted, 0 lost, 0 twice, 0 torn", before, count)
}

// A device that never has room: the broker accepts, keeps, and says in its exit
// status that it could not write.
func TestDevFull(t *testing.T) {
	device, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer device.Close()
	// The port can't be read from a log that takes nothing.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	command := command("broker", "-pport", port, "-timeout", "300ms", "-interval", "10ms")
	command.Stderr = device
	broker := startLogged(t, command, constant("Broker: listening on "+net.JoinHostPort(host, port)+"\n"))
	until(t, "the broker", func() bool {
		status, _ := broker.send("t", "1")
		return status == 0
	})
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 1 {
		t.Errorf("status %d", status)
	}
}

// constant is a log that is known already.
type constant string

func (constant constant) String() string { return string(constant) }

// A log pipe that is closed ends the broker with status 1.
func TestPipeClosed(t *testing.T) {
	broker, pipe := startInPipe(t, "-interval", "10ms")
	pipe.reader.Close()
	broker.send("t", "1")
	if status := broker.wait(); status != 1 {
		t.Errorf("status %d", status)
	}
	if status, stderr := broker.send("t", "2"); status != 1 {
		t.Errorf("afterwards: status %d: %s", status, stderr)
	}
}

// A standard error that can't be written to is an error that doesn't pass.
func TestLogThatCantBeWritten(t *testing.T) {
	reading, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	command := command("broker", "-pport", "0")
	command.Stderr = reading
	if err := command.Run(); command.ProcessState.ExitCode() != 1 {
		t.Errorf("%v", err)
	}
}

// Whatever standard error is, the exit status of a failure comes, and soon.
func TestStatusWithoutStandardError(t *testing.T) {
	for name, test := range map[string]struct {
		status    int
		arguments []string
	}{
		"misuse of the broker":   {2, []string{"broker", "-interval", "-1s"}},
		"a broker's failure":     {1, []string{"broker", "-phost", "256.1.1.1"}},
		"misuse of the producer": {2, []string{"producer", "-bad"}},
		"a producer's failure":   {1, []string{"producer", "-host", "256.1.1.1", "-topic", "t", "-message", "x"}},
	} {
		for _, full := range []bool{false, true} {
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			if full {
				writer.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				for err == nil {
					_, err = writer.Write(make([]byte, 4096))
				}
			} else {
				reader.Close()
			}
			command := command(test.arguments[0], test.arguments[1:]...)
			command.Stderr = writer
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(patience, func() { command.Process.Kill() })
			command.Wait()
			timer.Stop()
			if got := command.ProcessState.ExitCode(); got != test.status {
				t.Errorf("%s, full %v: status %d, want %d", name, full, got, test.status)
			}
			writer.Close()
			reader.Close()
		}
	}
}

// fill sends payloads in turn until the queue is full, and returns how many were
// accepted.
func (daemon *daemon) fill(payloads ...[]byte) int {
	daemon.t.Helper()
	for count := 0; ; count++ {
		reply, err := daemon.post(payloads[count%len(payloads)])
		if err != nil {
			daemon.t.Fatal(err)
		}
		if reply.Error == "queue is full" {
			return count
		}
		if reply.Error != "" {
			daemon.t.Fatal(reply.Error)
		}
	}
}

// While nobody reads the log's pipe, the broker accepts until the queue is full;
// all of that arrives once it is read, however slowly.
func TestPipeStuckThenSlow(t *testing.T) {
	broker, pipe := startInPipe(t, "-interval", "10ms", "-max-queued", "2000000", "-timeout", "3s")
	message := []byte("stuck " + strings.Repeat("x", 1000))
	accepted := 10 * broker.fill(repeated(t, 10, "t", message))
	broker.signal(syscall.SIGTERM)
	pipe.readAll(t, 4096, time.Millisecond)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	if got := strings.Count(pipe.String(), "Received new message from topic 't': '"+string(message)+"'\n"); got != accepted || accepted < 1000 {
		t.Errorf("%d messages were accepted and %d logged", accepted, got)
	}
	t.Logf("figure: a pipe that nobody reads, then slowly: %d messages accepted before \"queue is full\", all logged", accepted)
}

// With a pipe that nobody ever reads the broker still ends, with status 1, soon
// after -timeout.
func TestPipeStuckForGood(t *testing.T) {
	broker, _ := startInPipe(t, "-interval", "10ms", "-max-queued", "1000000", "-timeout", "1s")
	broker.fill(repeated(t, 10, "t", make([]byte, 1000)))
	begin := time.Now()
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 1 {
		t.Errorf("status %d", status)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// limitDescriptors sets how many descriptors the broker may have.
func (daemon *daemon) limitDescriptors(count uint64) {
	daemon.t.Helper()
	limit := syscall.Rlimit{Cur: count, Max: 1 << 10}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(daemon.command.Process.Pid), syscall.RLIMIT_NOFILE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		daemon.t.Skipf("no limit can be set here: %v", errno)
	}
}

// Without a descriptor for a connection the broker waits for one, says so once,
// and goes on when there is one.
func TestFewDescriptors(t *testing.T) {
	broker := startBroker(t, "-interval", "10ms")
	for burst := 1; burst <= 2; burst++ {
		broker.limitDescriptors(3)
		var waiting []*net.TCPConn
		for range 50 {
			connection := broker.dial()
			defer connection.Close()
			connection.Write([]byte(good))
			connection.CloseWrite()
			waiting = append(waiting, connection)
		}
		const line = "Broker: can't accept connections, trying on: "
		until(t, "the line", func() bool { return strings.Count(broker.log.String(), line) >= burst })
		before, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", broker.command.Process.Pid))
		time.Sleep(300 * time.Millisecond)
		after, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", broker.command.Process.Pid))
		if ticks := cpuTicks(after) - cpuTicks(before); ticks > 15 {
			t.Errorf("it spins: %d ticks of processor time in 300 ms", ticks)
		}
		broker.limitDescriptors(1 << 10)
		for _, connection := range waiting {
			if answer, err := io.ReadAll(connection); err != nil || len(answer) == 0 {
				t.Fatalf("the answer is %q, error %v", answer, err)
			}
		}
		if got := strings.Count(broker.log.String(), line); got != burst {
			t.Errorf("after burst %d the line is there %d times", burst, got)
		}
	}
}

// cpuTicks returns the processor time in a /proc/PID/stat, in 1/100 s.
func cpuTicks(stat []byte) int {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system
}

// Many connections at once, half of which are reset: each of the others is
// answered, and nothing is left of any.
func TestManyConnections(t *testing.T) {
	broker := startInFile(t, filepath.Join(t.TempDir(), "log"), "-interval", "10ms")
	before := broker.descriptors()
	count := either(2000, 400)
	var group sync.WaitGroup
	failures := make(chan error, count)
	begin := make(chan struct{})
	for i := range count {
		connection := broker.dial()
		connection.SetDeadline(time.Now().Add(2 * patience))
		group.Go(func() {
			defer connection.Close()
			<-begin
			if i%2 == 0 {
				connection.Write([]byte(good[:len(good)*(i%10)/10]))
				connection.SetLinger(0)
				return
			}
			connection.Write([]byte(good))
			connection.CloseWrite()
			answer, err := io.ReadAll(connection)
			if reply, wrong := decoder.NewMsgpackDecoder(1 << 20).DecodeReply(answer); wrong != nil || reply.Accepted != 1 {
				failures <- fmt.Errorf("connection %d: %q, %v", i, answer, err)
			}
		})
	}
	close(begin)
	group.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	until(t, "the last line", func() bool { return strings.Count(broker.log.String(), "Received new") == count/2 })
	until(t, "the last descriptor's end", func() bool { return broker.descriptors() <= before+1 }) // the poller's own may come later
	t.Logf("figure: %d connections at once, half of them reset: %d accepted of %d, descriptors %d before and %d after",
		count, strings.Count(broker.log.String(), "Received new"), count/2, before, broker.descriptors())
}

// A great many topics leave little behind.
func TestManyTopics(t *testing.T) {
	broker := startInFile(t, filepath.Join(t.TempDir(), "log"), "-interval", "20ms")
	count := either(100_000, 20_000)
	sender := broker.sender()
	for first := 0; first < count; first += 1000 {
		var messages []*apiv1.Message
		for i := range 1000 {
			messages = append(messages, &apiv1.Message{Topic: fmt.Sprintf("%d %s", first+i, strings.Repeat("x", 200))})
		}
		if err := sender.Send(t.Context(), messages); err != nil {
			t.Fatal(err)
		}
	}
	broker.signal(syscall.SIGTERM)
	peak := broker.memory("VmHWM")
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	made, got := strings.Count(broker.log.String(), " creating topic "), strings.Count(broker.log.String(), " Received new")
	if made != count || got != count {
		t.Errorf("%d topics were made, %d messages logged, want %d", made, got, count)
	}
	t.Logf("figure: %d topics: peak memory %d MiB", count, peak>>20)
}

// bound returns what the contract allows a broker to take, in bytes.
func bound(maxQueued, maxPayload int) int {
	return maxQueued*5/2 + maxPayload*6
}

// A flood of small messages goes through a small queue, in order, and the memory
// stays bounded.
func TestFlood(t *testing.T) {
	if buildFlags != nil {
		t.Skip("the race detector's memory is its own")
	}
	const maxQueued, maxPayload, batch = 32 << 20, 16 << 20, 10_000
	broker := startInFile(t, filepath.Join(t.TempDir(), "log"), "-interval", "1s", "-max-queued", fmt.Sprint(maxQueued))
	count := either(10_000_000, 300_000)
	payload := repeated(t, batch, "t", []byte("x"))
	begin := time.Now()
	for sent := 0; sent < count; sent += batch {
		if reply, err := broker.post(payload); err != nil || reply.Accepted != batch {
			t.Fatalf("after %d: %+v, %v", sent, reply, err)
		}
	}
	took := time.Since(begin)
	peak := broker.memory("VmHWM")
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	if got := strings.Count(broker.log.String(), "Received new message from topic 't': 'x'\n"); got != count {
		t.Errorf("%d messages of %d are in the log", got, count)
	}
	if peak > bound(maxQueued, maxPayload) {
		t.Errorf("%d bytes of memory, over %d", peak, bound(maxQueued, maxPayload))
	}
	t.Logf("figure: %d messages through -max-queued %d MiB in %.1f s: peak memory %d MiB, bound %d MiB",
		count, maxQueued>>20, took.Seconds(), peak>>20, bound(maxQueued, maxPayload)>>20)
}

// The bound on memory holds for each kind of messages that the queue can be
// filled with, while payloads of the largest size come in and are refused.
func TestMemoryBound(t *testing.T) {
	if buildFlags != nil {
		t.Skip("the race detector's memory is its own")
	}
	alternating := func(topics, count int) []byte {
		messages := make([]*apiv1.Message, count)
		for i := range messages {
			messages[i] = &apiv1.Message{Topic: fmt.Sprint(i % topics)}
		}
		return encode(t, messages)
	}
	smallest := "\x82" + topicKey + "\xa1a" + dataKey + "\xc0"
	for name, test := range map[string]struct {
		maxQueued, maxPayload int
		payloads              [][]byte
		short                 bool // for the short form too
	}{
		"a message a payload":             {8 << 20, 64 << 10, [][]byte{repeated(t, 1, "t", nil), repeated(t, 1, "u", nil)}, true},
		"15 bytes a message":              {64 << 20, 16 << 20, [][]byte{repeated(t, 10_000, "t", nil)}, false},
		"1 KiB a message":                 {64 << 20, 16 << 20, [][]byte{repeated(t, 1000, "t", make([]byte, 1000))}, false},
		"a payload's size a message":      {64 << 20, 16 << 20, [][]byte{repeated(t, 1, "t", make([]byte, 16<<20-100))}, false},
		"just over a power of 2":          {64 << 20, 16 << 20, [][]byte{repeated(t, 1, "t", make([]byte, 1<<20+1))}, false},
		"two topics in turn":              {64 << 20, 16 << 20, [][]byte{alternating(2, 10_000)}, false},
		"a topic a message":               {64 << 20, 16 << 20, [][]byte{alternating(10_000, 10_000)}, true},
		"a small queue, largest payloads": {1 << 20, 16 << 20, [][]byte{repeated(t, 100, "t", make([]byte, 1000))}, true},
	} {
		if !torture && !test.short {
			continue
		}
		t.Run(name, func(t *testing.T) {
			broker, _ := startInPipe(t, "-interval", "10ms", "-timeout", "1s",
				"-max-queued", fmt.Sprint(test.maxQueued), "-max-payload", fmt.Sprint(test.maxPayload))
			accepted := broker.fill(test.payloads...)
			// Now nothing fits: these are read and decoded, and refused.
			count := min(test.maxPayload/len(smallest)-1, test.maxQueued/128)
			for _, payload := range []string{
				"\xdd" + string([]byte{byte(count >> 24), byte(count >> 16), byte(count >> 8), byte(count)}) + strings.Repeat(smallest, count),
				"\xdd" + string([]byte{byte(count >> 24), byte(count >> 16), byte(count >> 8), byte(count)}) + strings.Repeat(smallest, count) + "\xc0",
				strings.Repeat("x", test.maxPayload+1),
				string(alternating(test.maxPayload/30, test.maxPayload/30)),
			} {
				if reply, err := broker.post([]byte(payload)); err != nil || reply.Error == "" {
					t.Fatalf("%+v, %v", reply, err)
				}
			}
			peak, limit := broker.memory("VmHWM"), bound(test.maxQueued, test.maxPayload)
			if peak > limit {
				t.Errorf("%d MiB of memory, over %d MiB", peak>>20, limit>>20)
			}
			t.Logf("figure: full of %s, %d payloads of %d bytes: peak memory %d MiB, bound %d MiB",
				name, accepted, len(test.payloads[0]), peak>>20, limit>>20)
		})
	}
}
