package bustest

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Message is a message as a line of the log has it: topic and data are still
// escaped.
type Message struct {
	Time  time.Time // when the line was formatted, in local time, to the second
	Topic string
	Data  string
}

// Lines returns the lines of a log without time stamps and line ends. It fails the
// test if a line has no time stamp or the last line has no end.
func Lines(t testing.TB, log string) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(log) {
		_, text, err := parseLine(line)
		if err != nil {
			t.Errorf("not a line of a log: %.200q: %v", line, err)
		}
		lines = append(lines, text)
	}
	return lines
}

// Messages returns the messages in a log, in its order. It leaves out the other
// lines, and a last line without an end. It fails the test if any other line has no
// time stamp or is a message only by its beginning.
func Messages(t testing.TB, log string) []Message {
	t.Helper()
	var messages []Message
	for line := range strings.Lines(log[:strings.LastIndexByte(log, '\n')+1]) {
		at, text, err := parseLine(line)
		topic, data, found := "", "", false
		if err == nil {
			topic, data, found, err = parseMessage(text)
		}
		if err != nil {
			t.Errorf("not a line of a log: %.200q: %v", line, err)
		}
		if found {
			messages = append(messages, Message{Time: at, Topic: topic, Data: data})
		}
	}
	return messages
}

// Received returns the data of the messages in a log by topic, in the log's order.
// It fails the test as Messages does.
func Received(t testing.TB, log string) map[string][]string {
	t.Helper()
	received := make(map[string][]string)
	for _, message := range Messages(t, log) {
		received[message.Topic] = append(received[message.Topic], message.Data)
	}
	return received
}

// parseLine returns when a line was formatted, and its text. The format is that of the
// log package with log.LstdFlags.
func parseLine(line string) (at time.Time, text string, err error) {
	const layout = "2006/01/02 15:04:05 "
	line, found := strings.CutSuffix(line, "\n")
	if !found {
		return at, line, errors.New("it has no end")
	}
	if len(line) < len(layout) {
		return at, line, errors.New("it has no time stamp")
	}
	at, err = time.ParseInLocation(layout, line[:len(layout)], time.Local)
	return at, line[len(layout):], err
}

// parseMessage returns the parts of a line's text if it is a message. An apostrophe
// in a topic is escaped, so the first one ends the topic.
func parseMessage(text string) (topic, data string, found bool, err error) {
	text, found = strings.CutPrefix(text, "Received new message from topic '")
	if !found {
		return "", "", false, nil
	}
	topic, data, separated := strings.Cut(text, "': '")
	data, ended := strings.CutSuffix(data, "'")
	if !separated || !ended || strings.Contains(topic, "'") {
		return "", "", false, errors.New("it is a message only by its beginning")
	}
	return topic, data, true, nil
}
