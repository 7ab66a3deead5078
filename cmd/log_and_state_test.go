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
func (store logAndState) add(messages ...string) {
	store.t.Helper()
	file, err := os.OpenFile(store.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		store.t.Fatal(err)
	}
	defer file.Close()
	var text strings.Builder
	text.WriteString(bustest.FirstLine(store.t, store.log))
	for _, message := range messages {
		text.WriteString(inLog("t", message))
	}
	if _, err := file.WriteString(text.String()); err != nil {
		store.t.Fatal(err)
	}
}

// with returns -log and -state, followed by arguments.
func (store logAndState) with(arguments ...string) []string {
	return append([]string{"-log", store.log, "-state", store.state}, arguments...)
}
