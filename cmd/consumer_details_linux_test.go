package cmd_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// A log that is not there is awaited with one line after 5 seconds.
func TestConsumerAwaitsLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none", "mbus.log")
	running := startConsumer(t, "-log", path)
	want := "consumer: " + path + ": is not there yet, and is awaited\n"
	bustest.Until(t, want, func() bool { return running.Stderr.String() == want })
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	logAndState{t, path, ""}.add("1")
	running.has("1\n")
	running.Signal(syscall.SIGTERM)
	if status := running.Wait(); status != 0 || running.Stderr.String() != want {
		t.Errorf("status %d, said %s", status, running.Stderr)
	}
}

// A line whose beginning, or all of it, a power loss has turned into zeros is reported.
func TestConsumerOfZeros(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	line := inLog("t", "2")
	store.append(strings.Repeat("\x00", 40) + line[40:] + strings.Repeat("\x00", 9) + "\n")
	store.add("3")
	status, stdout, stderr := consume(t, store.with("-end")...)
	const said = "consumer: skipped a line: it has zeros, as a power loss leaves them: "
	if status != 0 || stdout != "1\n3\n" || strings.Count(stderr, said) != 2 {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
}

// Where a command's input can't be kept, a worker fails at the start, without a message.
func TestConsumerWithoutRoom(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t)
	full := smallDisk(t, "4k")
	if err := os.WriteFile(filepath.Join(full, "filler"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for directory, why := range map[string]string{
		"/no/such": "no such file or directory", full: "no space left on device",
	} {
		command := consuming(store.with("-retry", "1h", "--", "cat")...)
		command.Env = append(os.Environ(), "TMPDIR="+directory)
		status, _, stderr := finish(t, command)
		said := "consumer: a command's input can't be kept in " + directory + " (TMPDIR): "
		if status != 1 || !strings.HasPrefix(stderr, said) || !strings.Contains(stderr, why) {
			t.Errorf("%s: status %d, said %s", directory, status, stderr)
		}
	}
}

// The file that a command reads never has a name, so a kill leaves nothing behind.
func TestConsumerInputWithoutName(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	directory := t.TempDir()
	command := consuming(store.with("-end", "--", "readlink", "/proc/self/fd/0")...)
	command.Env = append(os.Environ(), "TMPDIR="+directory)
	status, stdout, stderr := finish(t, command)
	if status != 0 || !strings.HasPrefix(stdout, directory+"/#") {
		t.Errorf("status %d, the input is %s, said %s", status, stdout, stderr)
	}
}

// The group can read a new state.
func TestConsumerStateMode(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1")
	command := consuming(store.with("-end")...)
	command.Args = append([]string{"sh", "-c", `umask 022 && exec "$0" "$@"`, command.Path},
		command.Args[1:]...)
	command.Path = "/bin/sh"
	if status, _, stderr := finish(t, command); status != 0 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	info, err := os.Stat(store.state)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode is %v, %v", info.Mode(), err)
	}
}

// The manual page's recipes write the lag for Prometheus, and report a worker that is behind.
func TestRecipeLag(t *testing.T) {
	kitchen := newKitchen(t, "1")
	path := kitchen.path("mbus.log")
	text := inLog("orders", "1") + inLog("orders", "2")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	written := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, written, written); err != nil {
		t.Fatal(err)
	}
	metrics := example(t, "mbus-consumer.1", "The lag for Prometheus")
	kitchen.succeed(metrics)
	const want = `mbus_consumer_lag_messages{state="orders.state"} 2` + "\n"
	if got := bustest.Read(t, kitchen.path("orders.prom")); !strings.Contains(got, want) {
		t.Errorf("orders.prom has %s", got)
	}
	alert := example(t, "mbus-consumer.1", "When a worker falls behind")
	if got := kitchen.succeed(alert); !strings.HasPrefix(got, "the worker is 36") {
		t.Errorf("it printed %q", got)
	}
	kitchen.succeed("mbus-consumer -log mbus.log -state orders.state -seek end")
	if got := kitchen.succeed(alert); got != "" {
		t.Errorf("without a lag it printed %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, recipe := range []string{alert, metrics} {
		if _, _, stderr := finish(t, kitchen.cook(recipe)); !strings.Contains(stderr, "mbus.log") {
			t.Errorf("without a log, standard error is %q", stderr)
		}
	}
	if left, _ := filepath.Glob(kitchen.path("lag.*")); len(left) > 0 {
		t.Errorf("%q were left", left)
	}
}

// -lag takes no lock, syncs nothing, and opens no file for writing.
func TestConsumerLagChangesNothing(t *testing.T) {
	t.Parallel()
	strace := tool(t, "strace")
	store := newLogAndState(t, "1")
	delivers(t, "1\n", store.with("-end")...)
	if err := os.Rename(store.log, store.log+".1"); err != nil {
		t.Fatal(err)
	}
	store.add("2")
	trace := filepath.Join(t.TempDir(), "trace")
	command := consuming(store.with("-lag")...)
	command.Args = append([]string{strace, "-f", "-o", trace,
		"-e", "trace=openat,flock,fsync,fdatasync,ftruncate,pwrite64", command.Path},
		command.Args[1:]...)
	command.Path = strace
	status, stdout, stderr := finish(t, command)
	if status != 0 {
		t.Skipf("nothing can be traced here: status %d: %s", status, stderr)
	}
	if !strings.Contains(stdout, "} 1\n") {
		t.Errorf("wrote %s", stdout)
	}
	text := bustest.Read(t, trace)
	if !strings.Contains(text, store.state) {
		t.Errorf("the trace has no state: %s", text)
	}
	calls := []string{"flock(", "sync(", "ftruncate(", "pwrite64(", "O_CREAT", "O_RDWR"}
	for _, call := range calls {
		for line := range strings.Lines(text) {
			if strings.Contains(line, call) && !strings.Contains(line, "/dev/") {
				t.Errorf("-lag calls %s", line)
			}
		}
	}
}
