package consumer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/logline"
)

// A message that still fails is reported again each hour, with its id.
func TestReportedAgain(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a command is not supported on Windows")
	}
	synctest.Test(t, func(t *testing.T) {
		const attempts = 800
		var reports []string
		config := &Config{
			Command: []string{"sh", "-c", fmt.Sprintf(`test "$MBUS_ATTEMPT" = %d`, attempts)},
			Retry:   24 * time.Hour, Output: os.Stdout, Errors: os.Stderr,
			Report: func(line string) { reports = append(reports, line) },
		}
		parsed := &logline.Message{Stamp: []byte("2024/06/02 10:39:55"), Topic: "t"}
		j := &job{config: config, message: message{parsed, "ID"}}
		begin := time.Now()
		if err := j.deliver(t.Context()); err != nil {
			t.Error(err)
		}
		const id, why = "message ID on topic t: ", "sh: exit status 1; retrying for up to 24h0m0s"
		want := []string{
			id + why, id + "attempt 366 failed: " + why, id + "attempt 726 failed: " + why,
			fmt.Sprintf("%sdelivered after %s of retrying", id, time.Since(begin)),
		}
		if !slices.Equal(reports, want) {
			t.Errorf("reported %q, want %q", reports, want)
		}
	})
}

// A persistent command that closes its input and stays is ended. An answer that it gives before it
// has read the whole line does not count.
func TestClosedInput(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a command is not supported on Windows")
	}
	config := &Config{
		Command: []string{"sh", "-c",
			"head -c 1 > /dev/null; echo ok ID; exec <&-; exec sleep 1000"},
		Persistent: true, Errors: os.Stderr,
	}
	parsed := &logline.Message{
		Stamp: []byte("2024/06/02 10:39:55"), Topic: "t", Data: make([]byte, 1<<20),
	}
	j := &job{config: config, message: message{parsed, "ID"}}
	defer j.close()
	err := j.run(1)
	const want = "sh: has closed its input or output"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A process that takes long to end, but ends with a status of its own, is not taken for one that
// was killed.
func TestEndsLate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a command is not supported on Windows")
	}
	for script, want := range map[string]error{"exit 0": errEnded, "exit 127": errNotRun} {
		command := exec.Command("sh", "-c", script)
		p, err := startProcess(command)
		if err != nil {
			t.Fatal(err)
		}
		<-p.exited
		ended := make(chan struct{})
		p.exited = ended
		time.AfterFunc(2*endPatience, func() { close(ended) })
		if err := p.end(nil); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", script, err, want)
		}
	}
}
