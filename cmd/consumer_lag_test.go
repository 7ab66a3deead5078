//go:build unix

package cmd_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
	"mbus/internal/shared/logline"
)

// at returns the line of a message at this time of one day.
func at(clock, topic, data string) string {
	message := &apiv1.Message{Topic: topic, Data: []byte(data)}
	return string(logline.Append([]byte("2024/06/02 "+clock+" "), message))
}

// lag runs -lag, and returns its samples without the names' beginning and the label.
func (s logAndState) lag(arguments ...string) string {
	s.t.Helper()
	status, stdout, stderr := consume(s.t, s.with(append(arguments, "-lag")...)...)
	if status != 0 || stderr != "" {
		s.t.Errorf("-lag %q: status %d: %s", arguments, status, stderr)
	}
	var samples []string
	for line := range strings.Lines(stdout) {
		if !strings.HasPrefix(line, "#") {
			label := fmt.Sprintf("{state=%q}", s.state)
			line = strings.TrimPrefix(strings.TrimSpace(line), "mbus_consumer_lag_")
			samples = append(samples, strings.Replace(line, label, "", 1))
		}
	}
	return strings.Join(samples, ", ")
}

// wantLag fails the test unless -lag finds this many messages and bytes, and this many seconds or a
// few more.
func (s logAndState) wantLag(messages, bytes, seconds int, arguments ...string) {
	s.t.Helper()
	got := s.lag(arguments...)
	for more := range 10 {
		want := fmt.Sprintf("messages %d, bytes %d, seconds %d", messages, bytes, seconds+more)
		if got == want && (more == 0 || messages > 0) {
			return
		}
	}
	s.t.Errorf("-lag %q: %s, want %d, %d, %d", arguments, got, messages, bytes, seconds)
}

// -lag counts the messages of the topics after the position, the bytes of their data, and how old
// the oldest is: by the time stamps, and by when the log was modified.
func TestConsumerLag(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t)
	store.wantLag(0, 0, 0)
	write := func(text string) {
		store.append(text)
		when := time.Now().Add(-time.Hour)
		if err := os.Chtimes(store.log, when, when); err != nil {
			t.Fatal(err)
		}
	}
	write(at("10:00:00", "a", "1") + at("10:00:05", "b", "\x00\x01") + at("10:00:09", "a", "345"))
	store.wantLag(3, 6, 3609) // without a state it is the whole log
	store.wantLag(2, 4, 3609, "-topic", "a")
	store.wantLag(1, 2, 3604, "-topic", "b")
	store.wantLag(0, 0, 0, "-topic", "c")
	if _, err := os.Stat(store.state); !os.IsNotExist(err) {
		t.Errorf("-lag has made a state: %v", err)
	}
	delivers(t, "1\n", store.with("-count", "1")...)
	store.wantLag(2, 5, 3604)
	write("2024/06/02 10:01:00 creating topic x\n")
	store.wantLag(2, 5, 3655)
	store.wantLag(1, 3, 3651, "-topic", "a")
	delivers(t, "\x00\x01\n345\n", store.with("-end")...)
	store.wantLag(0, 0, 0)
	// In a rotated log, too.
	write(at("10:02:00", "a", "6"))
	if err := os.Rename(store.log, store.log+".1"); err != nil {
		t.Fatal(err)
	}
	store.append(bustest.FirstLine(t, store.log))
	write(at("10:02:10", "a", "7"))
	store.wantLag(2, 2, 3610)
}

// append appends text to the log.
func (s logAndState) append(text string) {
	s.t.Helper()
	file, err := os.OpenFile(s.log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// -lag reads a state while its consumer runs, and changes nothing.
func TestConsumerLagWhileRunning(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1", "2")
	command := consuming(store.with("--", "sh", "-c", `[ $(cat) = 1 ] || sleep 60`)...)
	startConsumerCommand(t, command)
	bustest.Until(t, "the first message", func() bool {
		return strings.HasPrefix(store.lag(), "messages 1, bytes 1, ")
	})
	before := bustest.Read(t, store.state)
	info, err := os.Stat(store.state)
	if err != nil {
		t.Fatal(err)
	}
	store.lag()
	after, err := os.Stat(store.state)
	if err != nil || !after.ModTime().Equal(info.ModTime()) {
		t.Errorf("the state was written: %v", err)
	}
	if bustest.Read(t, store.state) != before {
		t.Error("the state has changed")
	}
}

// What -lag can't know is status 1 and one line.
func TestConsumerLagFails(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	delivers(t, "1\n", store.with("-end")...)
	none := filepath.Join(t.TempDir(), "none")
	fails(t, 1, none+": names no file, and there is no rotated file beside it",
		"-log", none, "-state", store.state, "-lag")
	fails(t, 1, store.log+".x: is not a state of a consumer; it was left as it is",
		"-log", store.log, "-state", copied(t, store.log), "-lag")
	if err := os.Remove(store.log); err != nil {
		t.Fatal(err)
	}
	store.add("another log")
	status, stdout, stderr := consume(t, store.with("-lag")...)
	const hint = "-seek next, start or end must set the state first\n"
	if status != 1 || stdout != "" || !strings.Contains(stderr, "the position is lost") ||
		!strings.HasSuffix(stderr, hint) {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
	const needs = "-lag needs -log and -state: the log and the state to compare (see consumer -h)"
	fails(t, 2, needs, "-lag")
	fails(t, 2, needs, "-lag", "-log", "x")
	fails(t, 2, "-lag and -seek: must be one of them (see consumer -h)",
		store.with("-lag", "-seek", "end")...)
	for _, flag := range []string{"-end", "-count=1", "-format=raw", "-from=start", "-retry=1s"} {
		fails(t, 2, "-lag delivers nothing: must be with -log, -state and -topic alone "+
			"(see consumer -h)", store.with("-lag", flag)...)
	}
}

// copied returns the path of a copy of the file at path.
func copied(t *testing.T, path string) string {
	t.Helper()
	err := os.WriteFile(path+".x", []byte(bustest.Read(t, path)), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return path + ".x"
}

// The output is what Prometheus takes, whatever the state's name is.
func TestConsumerLagFormat(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	store.state = filepath.Join(t.TempDir(), "a \"b\"\\\n\xff")
	status, stdout, stderr := consume(t, store.with("-lag")...)
	if status != 0 || stderr != "" {
		t.Fatalf("status %d: %s", status, stderr)
	}
	label := filepath.Dir(store.state) + `/a \"b\"\\\n` + "\ufffd"
	want := regexp.MustCompile(`^(# HELP (mbus_consumer_lag_\w+) [A-Z].*\.\n` +
		`# TYPE mbus_consumer_lag_\w+ gauge\n` +
		`mbus_consumer_lag_\w+\{state="` + regexp.QuoteMeta(label) + `"\} \d+\n){3}$`)
	if !want.MatchString(stdout) {
		t.Errorf("wrote %s", stdout)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool to check the metrics with")
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(stdout)
	if output, err := check.CombinedOutput(); err != nil || len(bytes.TrimSpace(output)) > 0 {
		t.Errorf("promtool: %v: %s", err, output)
	}
}
