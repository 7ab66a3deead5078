package consumer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"mbus/internal/apiv1"
	"mbus/internal/broker"
	"mbus/internal/consumer"
	"mbus/internal/shared/logline"
)

// patience is the longest time that a test waits for a result.
const patience = 20 * time.Second

const stamp = "2024/06/02 10:39:55 "

// line returns a message's line in the log.
func line(topic, data string) string {
	message := &apiv1.Message{Topic: topic, Data: []byte(data)}
	return string(logline.Append([]byte(stamp), message))
}

// consume runs a consumer to its end and returns what it wrote and reported.
func consume(t testing.TB, config consumer.Config) (text string, reports []string, err error) {
	t.Helper()
	output, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	config.Output, config.Errors = output, output
	config.Report = func(line string) { reports = append(reports, line) }
	c, err := consumer.New(&config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = c.Subscribe(ctx)
	if ctx.Err() != nil {
		t.Error("it did not end")
	}
	written, readErr := os.ReadFile(output.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(written), reports, err
}

// expect fails the test unless a consumer writes want, and reports nothing.
func expect(t testing.TB, config consumer.Config, want string) {
	t.Helper()
	if got, reports, err := consume(t, config); got != want || err != nil || len(reports) > 0 {
		t.Errorf("it wrote %q, want %q, %v, %q", got, want, err, reports)
	}
}

func TestFormats(t *testing.T) {
	const text = "it's \"5\" \\ \n\t\x00\x1f\x7f żółw \u2028"
	input := line(`o'r\d`, text) + line("b", "\xff\xfe") + line("b", "")
	for format, want := range map[string]string{
		"":             text + "\n\xff\xfe\n\n",
		consumer.Lines: text + "\n\xff\xfe\n\n",
		consumer.NUL:   text + "\x00\xff\xfe\x00\x00",
		consumer.Raw:   text + "\xff\xfe",
		consumer.JSON: `{"id":"cfb7896308ff69fa-0-0-ccd2c761",` +
			`"time":"2024-06-02T10:39:55","topic":"o'r\\d",` +
			`"data":"it's \"5\" \\ \n\t\u0000\u001f` + "\x7f żółw \u2028\"}\n" +
			`{"id":"cfb7896308ff69fa-0-111-c5efce63",` +
			`"time":"2024-06-02T10:39:55","topic":"b","base64":"//4="}` + "\n" +
			`{"id":"cfb7896308ff69fa-0-179-18275819",` +
			`"time":"2024-06-02T10:39:55","topic":"b","data":""}` + "\n",
	} {
		expect(t, consumer.Config{Input: strings.NewReader(input), Format: format}, want)
	}
}

// Exactly the topics in Config are delivered, in the order of the log.
func TestTopics(t *testing.T) {
	topics := []string{
		"a", "ab", "A", "a'b", `a\b`, "a': 'b", "żółw", "*", " ", `\x27`, "\U0001f422",
	}
	var input strings.Builder
	for round := range 2 {
		for i, topic := range topics {
			input.WriteString(line(topic, fmt.Sprintf("%d of %d", round, i)))
		}
	}
	for i, topic := range topics {
		config := consumer.Config{Input: strings.NewReader(input.String()), Topics: []string{topic}}
		expect(t, config, fmt.Sprintf("0 of %d\n1 of %d\n", i, i))
	}
	both := []string{"*", "a", "a"}
	expect(t, consumer.Config{Input: strings.NewReader(input.String()), Topics: both},
		"0 of 0\n0 of 7\n1 of 0\n1 of 7\n")
	none := []string{"b"}
	expect(t, consumer.Config{Input: strings.NewReader(input.String()), Topics: none}, "")
	// A character that only a newer Go finds printable may be in the log of its broker.
	const newer = "\U0003fffd"
	input.Reset()
	input.WriteString(stamp + "Received new message from topic '" + newer + "': '\u0085'\n")
	expect(t, consumer.Config{Input: strings.NewReader(input.String())}, "\u0085\n")
}

// head begins a message's line, and next is another line of the broker.
const (
	head = stamp + "Received new message from topic '"
	next = stamp + "Broker: start listening for incoming producer messages...\n"
)

// otherLines returns lines that are no messages.
func otherLines() []string {
	return []string{
		next,
		stamp + "creating topic Received new message from topic \\x27\n",
		stamp + "new message dispatched on topic x\n",
		stamp + "3 new messages dispatched on topic x\n",
		stamp + "refused payload from 127.0.0.1:1: " +
			"unknown entry \"Received new message from topic \"\n",
		"\n", "goroutine 1 [running]:\n", "Received new message\n",
	}
}

// tornLines returns lines that a crash or a power loss may leave, and lines that no broker writes.
func tornLines() []string {
	return []string{
		head + "a': 'no end",
		head + "a': 'it" + next,
		head + "a': 'it's" + stamp + "creating topic x\n",
		head + "a': '\n", head + "a': \n", head + "a'\n", head + "a\n", head + "\n",
		head + "': 'empty topic'\n",
		head + "a' : 'x'\n", head + "a': 'x' \n", head + "a': 'x'\r\n",
		stamp + "Rec" + next,
		stamp[:15] + next,
		stamp + "Broker: sta" + line("a", "x"),
		"x" + line("a", "x"),
		"2024/06/02 10:39:5x Received new message from topic 'a': 'x'\n",
		"2024-06-02 10:39:55 Received new message from topic 'a': 'x'\n",
		"Received new message from topic 'a': 'x'\n",
		head + "a': '\\q'\n", head + "a': '\x00'\n", head + "a': '\xff'\n",
		head + "\\q': 'x'\n", head + "\\xff': 'x'\n", head + "a\\nb': 'x'\n",
		head + "a\\x00': 'x'\n", head + "a\\u0085': 'x'\n",
		line(strings.Repeat("a", 256), "longer than a topic"),
		strings.Repeat("\x00", 100) + "\n", "\x00\x00\x00" + line("a", "x")[3:],
		stamp + "creating topic \x00\x00\x00\n", "goroutine\x00\n",
	}
}

// A line that is not a message is not delivered. A torn line is reported.
func TestOtherLines(t *testing.T) {
	others := otherLines()
	before := line("t", "before")
	for i, text := range append(others, tornLines()...) {
		got, reports, err := consume(t, consumer.Config{Input: strings.NewReader(before + text)})
		if got != "before\n" || err != nil || (len(reports) > 0) != (i >= len(others)) {
			t.Errorf("%q: it wrote %q, %v, and reported %q", text, got, err, reports)
		}
		for _, report := range reports {
			if !strings.HasPrefix(report, "skipped a line: ") || len(report) > 400 {
				t.Errorf("%q", report)
			}
		}
	}
}

func TestCount(t *testing.T) {
	input := line("a", "1") + line("b", "no") + line("a", "2") + "no\n" + line("a", "3")
	for count, want := range []string{"1\n2\n3\n", "1\n", "1\n2\n", "1\n2\n3\n", "1\n2\n3\n"} {
		input := strings.NewReader(input)
		expect(t, consumer.Config{Input: input, Topics: []string{"a"}, Count: count}, want)
	}
}

// Validate says what is wrong with each of these, and what would be right.
func TestValidate(t *testing.T) {
	long := strings.Repeat("x", 256)
	command := []string{"x"}
	const like = "such as '2026/11/24 10:00:00' or 2026-11-24T10:00:00"
	for want, config := range map[string]consumer.Config{
		`-topic is 0 bytes long, must be 1 to 255`:                  {Topics: []string{"a", ""}},
		`-topic is 256 bytes long, must be 1 to 255`:                {Topics: []string{long}},
		`-topic is not printable UTF-8 at byte 2`:                   {Topics: []string{"a\n"}},
		`-topic is not printable UTF-8 at byte 3`:                   {Topics: []string{"ab\xff"}},
		`-format "x": must be lines, nul, raw or json`:              {Format: "x"},
		`-from "now": must be start, end or a time, ` + like:        {Log: "x", From: "now"},
		`-from "2026/11/24": must be start, end or a time, ` + like: {Log: "x", From: "2026/11/24"},
		`-from "2026/02/30 10:00:00": must be start, end or a time, ` + like: {
			Log: "x", From: "2026/02/30 10:00:00"},
		`-from "2026/11/24 1:00:00": must be start, end or a time, ` + like: {
			Log: "x", From: "2026/11/24 1:00:00"},
		`-lag needs -log and -state: the log and the state to compare`: {Log: "x", Lag: true},
		`-seek needs -log and -state: the log and the state to set`:    {Log: "x", Seek: "end"},
		`-lag and -seek: must be one of them`: {
			Log: "x", State: "y", Seek: "end", Lag: true},
		`-lag delivers nothing: must be with -log, -state and -topic alone`: {
			Log: "x", State: "y", Lag: true, ToEnd: true},
		`-seek delivers nothing: must be with -log and -state alone`: {
			Log: "x", State: "y", Seek: "2026/11/24 10:00:00", Topics: []string{"t"}},
		`-count -1: must be at least 1`: {Count: -1},
		`-seek "now": must be start, end, next or a time, ` + like: {
			Seek: "now", Log: "x", State: "y"},
		`-retry -1s: must be a duration of at least 0, such as 30s`: {
			Command: command, Retry: -time.Second},
		`-retry without a command: must be with one, after --`: {Retry: time.Second},
		`-format with a command: must be one of them, a command gets the data alone`: {
			Command: command, Format: "raw"},
		`-state without -log: must be with the log that the position is in`: {State: "x"},
		`-from without -log: must be with the log to begin in`:              {From: "end"},
	} {
		if c, err := consumer.New(&config); err == nil || c != nil || err.Error() != want {
			t.Errorf("%+v: %v, want %s", config, err, want)
		}
	}
}

// A state must not have the name of a file of the log.
func TestValidateState(t *testing.T) {
	for _, test := range []consumer.Config{
		{Log: "x", State: "x"}, {Log: "x", State: "./x"}, {Log: "x", State: "x.1"},
		{Log: "./d/x", State: "d/x-20261124.1"},
	} {
		want := "-state " + test.State + ": must be another file than the log and its rotated files"
		if err := test.Validate(); err == nil || err.Error() != want {
			t.Errorf("-log %s -state %s: %v, want %s", test.Log, test.State, err, want)
		}
	}
	for _, state := range []string{"x.state", "x.1.state", "x.", "d/x.1", "y"} {
		config := consumer.Config{Log: "x", State: state}
		if err := config.Validate(); err != nil {
			t.Error(err)
		}
	}
}

// files has the paths of a test's log and state.
type files struct {
	t          testing.TB
	log, state string
}

func newFiles(t testing.TB) files {
	directory := t.TempDir()
	return files{t, filepath.Join(directory, "mbus.log"), filepath.Join(directory, "state")}
}

// write appends text to the log.
func (f files) write(text string) {
	f.t.Helper()
	file, err := os.OpenFile(f.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		f.t.Fatal(err)
	}
}

// config configures a consumer of the log, to its end, with the state.
func (f files) config() consumer.Config {
	return consumer.Config{Log: f.log, State: f.state, ToEnd: true}
}

// Each run begins where the run before ended, whatever its topics are. Lines that are not
// delivered move the position too.
func TestState(t *testing.T) {
	files := newFiles(t)
	files.write(line("a", "1") + line("b", "2"))
	config := files.config()
	expect(t, config, "1\n2\n")
	expect(t, config, "")
	files.write(line("a", "3") + line("b", "4") + "no\n")
	config.Topics = []string{"a"}
	expect(t, config, "3\n")
	before, _ := os.ReadFile(files.state)
	config.Topics = []string{"never"}
	files.write(line("a", "5"))
	expect(t, config, "")
	if after, _ := os.ReadFile(files.state); bytes.Equal(before, after) {
		t.Error("a topic that never occurs keeps the state")
	}
	config.Topics = nil
	expect(t, config, "")
	files.write(line("a", "6") + line("a", "7") + line("a", "8"))
	config.Count = 2
	expect(t, config, "6\n7\n")
	expect(t, config, "8\n")
}

// -from has an effect only if there is no position.
func TestFrom(t *testing.T) {
	files := newFiles(t)
	files.write(line("a", "1"))
	config := files.config()
	config.From = consumer.End
	expect(t, config, "")
	files.write(line("a", "2"))
	config.From = consumer.Start
	expect(t, config, "2\n")
}

// A crash can cut the log anywhere after the position. The broker then cuts a torn end off and
// appends. The consumer delivers the messages that are left and those that are new.
func TestCrashedLog(t *testing.T) {
	files := newFiles(t)
	files.write(line("a", "1"))
	expect(t, files.config(), "1\n")
	state, err := os.ReadFile(files.state)
	if err != nil {
		t.Fatal(err)
	}
	start := line("a", "1")
	rest := line("a", "it's 2") + line("b", "3\n")
	after := stamp + "Broker: start listening for incoming producer messages...\n" + line("a", "4")
	for length := range len(rest) + 1 {
		kept := rest[:strings.LastIndexByte(rest[:length], '\n')+1]
		want := ""
		for _, data := range []string{"it's 2\n", "3\n\n"}[:strings.Count(kept, "\n")] {
			want += data
		}
		for text, want := range map[string]string{
			start + rest[:length]:         want,         // after the crash
			start + kept + after:          want + "4\n", // after the next start with -log
			start + rest[:length] + after: want + "4\n", // after the next start without -log
		} {
			for path, text := range map[string]string{files.state: string(state), files.log: text} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, _, err := consume(t, files.config()); got != want || err != nil {
				t.Errorf("%q: it wrote %q, want %q, %v", text, got, want, err)
			}
		}
	}
}

// Any topic and data that a broker accepts come back from its log, in order.
func FuzzRoundTrip(f *testing.F) {
	var log bytes.Buffer
	config := broker.DefaultConfig()
	config.ProducerPort, config.Log = "0", &log
	b, err := broker.New(config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(b.Close)
	var every []byte
	for b := range 256 {
		every = append(every, byte(b))
	}
	f.Add("orders", every, every[128:])
	f.Add("it's a \\ ': '", []byte("'\n"), []byte("x\n"+line("a", "x")))
	f.Fuzz(func(t *testing.T, topic string, first, second []byte) {
		if apiv1.CheckTopic([]byte(topic)) != nil {
			topic = "t"
		}
		log.Reset()
		b.HandleNewMessage(&apiv1.Message{Topic: topic, Data: first})
		b.HandleNewMessage(&apiv1.Message{Topic: topic, Data: second})
		if err := b.Drain(); err != nil {
			t.Fatal(err)
		}
		text := log.Bytes()
		config := consumer.Config{Input: bytes.NewReader(text), Format: consumer.NUL}
		config.Topics = []string{topic}
		expect(t, config, string(first)+"\x00"+string(second)+"\x00")
		config = consumer.Config{Input: bytes.NewReader(text), Format: consumer.JSON}
		got, _, err := consume(t, config)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(got, "\n")
		checkObject(t, lines[0], topic, first)
		checkObject(t, lines[1], topic, second)
	})
}

// checkObject fails the test unless line is a JSON object with this topic and data.
func checkObject(t *testing.T, line, topic string, want []byte) {
	t.Helper()
	var object struct {
		Time, Topic string
		Data        *string
		Base64      []byte
	}
	if err := json.Unmarshal([]byte(line), &object); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	data := object.Base64
	if object.Data != nil {
		data = []byte(*object.Data)
	}
	isText := object.Data != nil
	if object.Topic != topic || !bytes.Equal(data, want) || isText != utf8.Valid(want) {
		t.Errorf("%q came back as %q", want, line)
	}
}

// The messages of a stream do not depend on the sizes of its reads.
func FuzzStream(f *testing.F) {
	f.Add([]byte(line("a", "1")+"x\n"+line("b", "2\n")+line("a", "torn")[:60]), 3)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		config := consumer.Config{Input: bytes.NewReader(text), Format: consumer.JSON}
		whole, reports, err := consume(t, config)
		if err != nil {
			t.Fatal(err)
		}
		pieces := &inPieces{text, max(size&15, 1)}
		got, again, err := consume(t, consumer.Config{Input: pieces, Format: consumer.JSON})
		if got != whole || err != nil || !slices.Equal(reports, again) {
			t.Errorf("in pieces: %q, %q, %v, want %q, %q", got, again, err, whole, reports)
		}
		files := newFiles(t)
		files.write(string(text))
		config = files.config()
		config.Format = consumer.JSON
		if got, _, err := consume(t, config); got != whole || err != nil {
			t.Errorf("from a file: %q, %v, want %q", got, err, whole)
		}
	})
}

// inPieces is a stream that returns up to size bytes from each read.
type inPieces struct {
	text []byte
	size int
}

func (p *inPieces) Read(room []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	count := copy(room, p.text[:min(p.size, len(p.text))])
	p.text = p.text[count:]
	return count, nil
}
