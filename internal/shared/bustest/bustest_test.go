package bustest

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// Lines of a log are parsed. Other text is an error.
func TestParse(t *testing.T) {
	const stamp = "2024/06/02 10:39:55 "
	when := time.Date(2024, 6, 2, 10, 39, 55, 0, time.Local)
	for line, want := range map[string]Message{
		"Received new message from topic 't': 'd'":         {when, "t", "d"},
		"Received new message from topic 't': ''":          {when, "t", ""},
		"Received new message from topic 't': '': 'it's''": {when, "t", "': 'it's'"},
		`Received new message from topic '\x27': '\n'`:     {when, `\x27`, `\n`},
	} {
		got := Messages(t, stamp+line+"\n")
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
	log := stamp + "creating topic Received new message from topic 't': 'd'\n" + stamp + "torn"
	if got := Messages(t, log); got != nil {
		t.Errorf("messages in %q: %+v", log, got)
	}
	for _, line := range []string{"", "\n", "x\n", stamp, stamp + "text", "2024/13/02 10:39:55 \n",
		"2024/06/02 10:39:55\n"} {
		if _, text, err := parseLine(line); err == nil {
			t.Errorf("%q is parsed as a line: %q", line, text)
		}
	}
	for _, text := range []string{"", "': '", "t': '", "t': 'd", "t'", "it's': 'd'"} {
		text = "Received new message from topic '" + text
		if topic, data, found, err := parseMessage(text); found || err == nil {
			t.Errorf("%q is parsed as a message: %q, %q", text, topic, data)
		}
	}
}

// An endless input ends with a whole line after Stop.
func TestEndless(t *testing.T) {
	input := &Endless{}
	lines := bufio.NewScanner(input)
	var got []string
	for lines.Scan() {
		got = append(got, lines.Text())
		if len(got) == 10_000 {
			input.Stop()
		}
	}
	if !slices.Equal(got, Numbers(1, input.Lines())) || len(got) < 10_000 {
		t.Errorf("%d lines, the last is %q, want %d", len(got), got[len(got)-1], input.Lines())
	}
	if want := len(strings.Join(got, "\n")) + 1; input.Bytes() != want {
		t.Errorf("%d bytes were read, want %d", input.Bytes(), want)
	}
	text := make([]byte, 10_000)
	_, err := io.ReadFull(&Endless{OneLine: true}, text)
	if err != nil || slices.Contains(text, '\n') {
		t.Errorf("one line: %v, %.100q", err, text)
	}
}
