package consumer

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/logline"
)

// A message that still fails is reported again after some time, with its id.
func TestReportedAgain(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a command is not supported on Windows")
	}
	var reports []string
	config := &Config{
		Command: []string{"sh", "-c", `test "$MBUS_ATTEMPT" = 4`}, Retry: time.Minute,
		Output: os.Stdout, Errors: os.Stderr,
		Report: func(line string) { reports = append(reports, line) },
	}
	parsed := &logline.Message{Stamp: []byte("2024/06/02 10:39:55"), Topic: "t"}
	for again, want := range map[time.Duration]int{0: 4, time.Hour: 2} {
		reports = nil
		j := newJob(config, 1, nil)
		j.again, j.message = again, message{parsed, "ID"}
		err := j.deliver(context.Background())
		if err != nil || len(reports) != want {
			t.Fatalf("%v, reported %q, want %d lines", err, reports, want)
		}
		const first = "message ID on topic t: sh: exit status 1; retrying for up to 1m0s"
		if reports[0] != first || !strings.Contains(reports[want-1], "delivered after ") {
			t.Errorf("reported %q", reports)
		}
		const third = "message ID on topic t: attempt 3 failed: sh: exit status 1; " +
			"retrying for up to 1m0s"
		if again == 0 && reports[2] != third {
			t.Errorf("reported %q, want %q", reports[2], third)
		}
	}
}
