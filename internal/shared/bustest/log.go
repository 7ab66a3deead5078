package bustest

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Message is a message in a line of the log. Its topic and data are escaped, as in the log.
type Message struct {
	Time  time.Time // the line's time stamp
	Topic string
	Data  string
}

// Lines returns the lines of a log without time stamps and line ends. It fails the test if a
// line has no time stamp, or if the last line has no end.
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

// Messages returns the messages in a log, in the log's order. It ignores a last line without
// an end. It fails the test if another line has no time stamp, or has the beginning of a
// message but not its end.
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

// Received returns the data of the messages in a log by topic, in the log's order. It fails
// the test when Messages does.
func Received(t testing.TB, log string) map[string][]string {
	t.Helper()
	received := make(map[string][]string)
	for _, message := range Messages(t, log) {
		received[message.Topic] = append(received[message.Topic], message.Data)
	}
	return received
}

// parseLine returns the time stamp and the text of a line, which has the format of the log
// package with log.LstdFlags.
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

// parseMessage returns the topic and the data of text, which is a line's, if text has the
// beginning of a message. An apostrophe in a topic is escaped, so the first one ends the
// topic.
func parseMessage(text string) (topic, data string, found bool, err error) {
	text, found = strings.CutPrefix(text, "Received new message from topic '")
	if !found {
		return "", "", false, nil
	}
	topic, data, separated := strings.Cut(text, "': '")
	data, ended := strings.CutSuffix(data, "'")
	if !separated || !ended || strings.Contains(topic, "'") {
		return "", "", false, errors.New("it has the beginning of a message, but not its end")
	}
	return topic, data, true, nil
}
