//go:build unix

package cmd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
	"mbus/internal/shared/logline"
)

// inLog returns the line that the broker logs for a message.
func inLog(topic, data string) string {
	message := &apiv1.Message{Topic: topic, Data: []byte(data)}
	return string(logline.Append([]byte("2024/06/02 10:39:55 "), message))
}

// logAndState has the paths of a log and a state.
type logAndState struct {
	t          *testing.T
	log, state string
}

// newLogAndState makes a log of these messages on the topic t.
func newLogAndState(t *testing.T, messages ...string) logAndState {
	t.Helper()
	directory := t.TempDir()
	store := logAndState{t, filepath.Join(directory, "mbus.log"), filepath.Join(directory, "state")}
	store.add(messages...)
	return store
}

// add appends messages on the topic t to the log.
func (s logAndState) add(messages ...string) {
	s.t.Helper()
	file, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	var text strings.Builder
	text.WriteString(bustest.FirstLine(s.t, s.log))
	for _, message := range messages {
		text.WriteString(inLog("t", message))
	}
	if _, err := file.WriteString(text.String()); err != nil {
		s.t.Fatal(err)
	}
}

// with returns -log and -state, followed by arguments.
func (s logAndState) with(arguments ...string) []string {
	return append([]string{"-log", s.log, "-state", s.state}, arguments...)
}
