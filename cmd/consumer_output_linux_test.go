package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// appends runs a consumer to its end whose standard output appends to the file at path. It returns
// the exit status, standard error and what the file has.
func appends(t *testing.T, path string, flag int, arguments ...string) (int, string, string) {
	t.Helper()
	output, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|flag, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	command := consuming(arguments...)
	command.Stdout = output
	status, _, stderr := finish(t, command)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return status, stderr, string(text)
}

// write appends text to the file at path.
func write(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// What an output file has after the saved position is cut off in every format, and not before the
// next line is there.
func TestConsumerOutputIsCut(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"lines", "nul", "raw"} {
		end := map[string]string{"lines": "\n", "nul": "\x00"}[format]
		store := newLogAndState(t, "1", "2")
		path := filepath.Join(t.TempDir(), "out")
		write(t, path, "before\n")
		run := func(wantSaid, want string) {
			t.Helper()
			arguments := store.with("-end", "-format", format)
			status, stderr, got := appends(t, path, os.O_APPEND, arguments...)
			if status != 0 || stderr != wantSaid || got != want {
				t.Errorf("-format %s: status %d, said %q, want %q, the file has %q, want %q",
					format, status, stderr, wantSaid, got, want)
			}
		}
		text := "before\n1" + end + "2" + end
		run("", text)
		write(t, path, "piece")
		run("", text+"piece") // there is nothing to write again
		store.add("3")
		text += "3" + end
		run("consumer: standard output: cut off 5 bytes after the saved position; "+
			"their messages are written again\n", text)
		store.add("4")
		run("", text+"4"+end)
	}
}

// A file that is not the one of the state is left alone.
func TestConsumerOutputIsNotCut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(store logAndState, path string)
		flag   int
		want   string
	}{
		"another file": {func(_ logAndState, path string) {
			os.Rename(path, path+".old")
			write(t, path, "1\n2\n+")
		}, os.O_APPEND, "1\n2\n+3\n"},
		"emptied and grown": {func(_ logAndState, path string) {
			os.Truncate(path, 0)
			write(t, path, "1\nx\n+")
		}, os.O_APPEND, "1\nx\n+3\n"},
		"shorter": {func(_ logAndState, path string) {
			os.Truncate(path, 2)
		}, os.O_APPEND, "1\n3\n"},
		"not appended to": {func(_ logAndState, path string) {
			write(t, path, "++++")
		}, 0, "3\n2\n++++"},
		"after -seek": {func(store logAndState, path string) {
			write(t, path, "++++")
			store.seeks("start", "is set to ")
		}, os.O_APPEND, "1\n2\n++++1\n2\n3\n"},
	} {
		store := newLogAndState(t, "1", "2")
		path := filepath.Join(t.TempDir(), "out")
		appends(t, path, os.O_APPEND, store.with("-end")...)
		test.change(store, path)
		store.add("3")
		status, stderr, got := appends(t, path, test.flag, store.with("-end")...)
		if status != 0 || stderr != "" || got != test.want {
			t.Errorf("%s: status %d, said %q, the file has %q, want %q",
				name, status, stderr, got, test.want)
		}
	}
	// Of a log that does not have the position, nothing comes again.
	store := newLogAndState(t, "1", "2")
	path := filepath.Join(t.TempDir(), "out")
	appends(t, path, os.O_APPEND, store.with("-end")...)
	write(t, path, "piece")
	if err := os.Remove(store.log); err != nil {
		t.Fatal(err)
	}
	store.add("another log")
	status, stderr, got := appends(t, path, os.O_APPEND, store.with("-end")...)
	if status != 1 || !strings.Contains(stderr, "the position is lost") || got != "1\n2\npiece" {
		t.Errorf("status %d, said %q, the file has %q", status, stderr, got)
	}
}

// Whenever the consumer is killed, its output file has each message once in the end.
func TestConsumerOutputAfterKills(t *testing.T) {
	t.Parallel()
	const count = 30_000
	messages := make([]string, count)
	for i := range messages {
		messages[i] = fmt.Sprintf("%08d%s", i, strings.Repeat("x", i%100))
	}
	want := strings.Join(messages, "\n") + "\n"
	store := newLogAndState(t, messages[:count/2]...)
	path := filepath.Join(t.TempDir(), "out")
	cuts, kills := 0, 12
	for i := range kills {
		output, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		command := consuming(store.with()...)
		command.Stdout = output
		running := startGroup(t, command)
		output.Close()
		// Without a state, the first consumer has written nothing yet.
		bustest.Until(t, "a state", func() bool { return file(store.state).String() != "" })
		part := messages[count/2+i*count/2/kills : count/2+(i+1)*count/2/kills]
		store.add(part[:len(part)/2]...)
		pause(60 * time.Millisecond)
		store.add(part[len(part)/2:]...)
		syscall.Kill(command.Process.Pid, syscall.SIGKILL)
		running.Wait()
		if strings.Contains(running.Stderr.String(), "cut off") {
			cuts++
		}
		write(t, path, "0000") // as a kill in the middle of a write leaves it
	}
	status, stderr, got := appends(t, path, os.O_APPEND, store.with("-end")...)
	if status != 0 || got != want {
		t.Errorf("status %d, said %s; %d bytes, want %d", status, stderr, len(got), len(want))
	}
	if cuts == 0 {
		t.Error("nothing was cut")
	}
}

// A full disk leaves a part of a message. With room again, each message is there once.
func TestConsumerOutputAfterFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "64k")
	filler, path := filepath.Join(disk, "filler"), filepath.Join(disk, "out")
	if err := os.WriteFile(filler, make([]byte, 56<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	message := strings.Repeat("x", 999)
	store := newLogAndState(t, message, message, message, message, message, message, message,
		message, message, message)
	status, stderr, got := appends(t, path, os.O_APPEND, store.with("-end")...)
	if status != 1 || !strings.Contains(stderr, "no space left on device") || len(got) == 0 {
		t.Errorf("status %d, said %s, the file has %d bytes", status, stderr, len(got))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	status, stderr, got = appends(t, path, os.O_APPEND, store.with("-end")...)
	said := fmt.Sprintf("consumer: standard output: cut off %d bytes after ", 8<<10)
	if status != 0 || got != strings.Repeat(message+"\n", 10) || !strings.HasPrefix(stderr, said) {
		t.Errorf("status %d, said %s, the file has %d bytes", status, stderr, len(got))
	}
}

// Another process may make the pipe of standard output non-blocking. The consumer waits for it.
func TestConsumerOutputNonBlocking(t *testing.T) {
	t.Parallel()
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	store := newLogAndState(t, "first")
	command := consuming(store.with("-count", "301")...)
	writer := os.NewFile(uintptr(pipe[1]), "writer")
	reader := os.NewFile(uintptr(pipe[0]), "reader")
	defer reader.Close()
	command.Stdout = writer
	running := startGroup(t, command)
	first := make([]byte, len("first\n"))
	if _, err := reader.Read(first); err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(pipe[1], true); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	message := strings.Repeat("x", 999)
	messages := make([]string, 300)
	for i := range messages {
		messages[i] = message
	}
	store.add(messages...)
	pause(300 * time.Millisecond) // the pipe is full now
	var got strings.Builder
	buffer := make([]byte, 64<<10)
	for {
		count, err := reader.Read(buffer)
		if count == 0 || err != nil {
			break
		}
		got.Write(buffer[:count])
	}
	status := running.Wait()
	if status != 0 || got.String() != strings.Repeat(message+"\n", 300) {
		t.Errorf("status %d, said %s, wrote %d bytes", status, running.Stderr, got.Len())
	}
}

// Each write of several messages ends with the end of one.
func TestConsumerOutputWrites(t *testing.T) {
	t.Parallel()
	strace := tool(t, "strace")
	messages := make([]string, 3000)
	for i := range messages {
		messages[i] = strings.Repeat("x", 97)
	}
	store := newLogAndState(t, messages...)
	trace := store.state + ".trace"
	command := consuming("-log", store.log, "-end")
	traced := command
	traced.Args = append([]string{strace, "-f", "-o", trace, "-e", "trace=write", command.Path},
		command.Args[1:]...)
	traced.Path = strace
	status, stdout, stderr := finish(t, traced)
	if status != 0 {
		t.Skipf("nothing can be traced here: status %d: %s", status, stderr)
	}
	if stdout != strings.Repeat(messages[0]+"\n", len(messages)) {
		t.Errorf("wrote %d bytes", len(stdout))
	}
	text := bustest.Read(t, trace)
	// After a write that a signal has interrupted, the next one writes what is left. strace writes
	// a call beside that of another thread on two lines: "unfinished" and "resumed".
	begun := regexp.MustCompile(`write\(1, .*, (\d+)(\)| <unfinished)`)
	ended := regexp.MustCompile(`(write\(1, .*|write resumed>)\) += (\d+)`)
	writes, size, left := 0, 0, 0
	for line := range strings.Lines(text) {
		if found := begun.FindStringSubmatch(line); found != nil {
			writes++
			size, _ = strconv.Atoi(found[1])
			if size == 0 || size > 64<<10 || size != left && (left > 0 || size%98 != 0) {
				t.Errorf("a write of %d bytes", size)
			}
		}
		if found := ended.FindStringSubmatch(line); found != nil && size > 0 {
			written, _ := strconv.Atoi(found[2])
			left, size = size-written, 0
		}
	}
	if writes < 4 {
		t.Errorf("%d writes of %q", writes, text)
	}
}
