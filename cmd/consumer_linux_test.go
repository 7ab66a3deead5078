package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// On a full disk no message counts as delivered, and no position as saved.
func TestConsumerOnFullDisk(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "1", "2")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	command := consuming(store.with("-end")...)
	command.Stdout = full
	status, _, stderr := finish(t, command)
	const want = "consumer: standard output: write /dev/stdout: no space left on device\n"
	if status != 1 || stderr != want {
		t.Errorf("status %d, said %s", status, stderr)
	}
	delivers(t, "1\n2\n", store.with("-end")...)
	fails(t, 1, "/dev/full: must be a regular file", "-log", store.log, "-state", "/dev/full")

	disk := smallDisk(t, "8k")
	state := filepath.Join(disk, "state")
	delivers(t, "1\n", "-log", store.log, "-state", state, "-count", "1")
	filler := filepath.Join(disk, "filler")
	for {
		err := os.WriteFile(filler, make([]byte, 4096), 0o600)
		if err != nil {
			break
		}
		filler += "+"
	}
	// An old state needs no more room. A new one is reported at once.
	delivers(t, "2\n", "-log", store.log, "-state", state, "-end")
	status, stdout, stderr := consume(t, "-log", store.log, "-state", state+".new", "-end")
	const noRoom = "/state.new: no space left on device\n"
	if status != 1 || stdout != "" || !strings.HasSuffix(stderr, noRoom) {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
	// If there is no room for a command's input, the message is not delivered.
	command = consuming("-log", store.log, "-end", "--", "cat")
	command.Env = append(os.Environ(), "TMPDIR="+disk)
	status, stdout, stderr = finish(t, command)
	if status != 1 || stdout != "" || !strings.HasSuffix(stderr, ": no space left on device\n") {
		t.Errorf("status %d, wrote %q, said %s", status, stdout, stderr)
	}
}

// Before it saves a position, a consumer writes and syncs the messages and then syncs the log.
// After it, it syncs the state.
func TestConsumerSyncs(t *testing.T) {
	t.Parallel()
	strace := tool(t, "strace")
	store := newLogAndState(t, "1", "2")
	command := consuming(store.with("-end")...)
	trace, output := store.state+".trace", store.state+".output"
	arguments := []string{"-f", "-y", "-o", trace, "-e", "trace=write,pwrite64,fsync,fdatasync"}
	traced := exec.Command(strace, append(append(arguments, command.Path), command.Args[1:]...)...)
	file, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	traced.Stdout = file
	if status, _, stderr := finish(t, traced); status != 0 {
		t.Skipf("nothing can be traced here: status %d: %s", status, stderr)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	call := regexp.MustCompile(`(\w+)\(\d+<([^>]*)>`)
	for _, found := range call.FindAllStringSubmatch(string(text), -1) {
		if name, within := strings.CutPrefix(found[2], filepath.Dir(store.log)); within {
			calls = append(calls, found[1]+" "+strings.TrimPrefix(name, "/"))
		}
	}
	want := []string{
		// The first save, at the start of the log, makes the file and its name durable.
		"pwrite64 state", "fdatasync state", "fsync ",
		"write state.output", "fsync state.output", "fdatasync mbus.log",
		"pwrite64 state", "fdatasync state",
	}
	if i := slices.Index(calls, "pwrite64 state"); i < 0 || !slices.Equal(calls[i:], want) {
		t.Errorf("the calls are %q, want %q", calls, want)
	}
}

// Memory stays under 16 MiB and three times the longest line.
func TestConsumerMemory(t *testing.T) {
	t.Parallel()
	if bustest.RaceDetector {
		t.Skip("the race detector's memory is its own")
	}
	size := 20 << 20
	if bustest.Torture {
		size = 65 << 20 // more than a power of two
	}
	for name, line := range map[string]string{
		"short lines": strings.Repeat(inLog("t", strings.Repeat("x", 128)), size/200),
		"plain text":  inLog("t", strings.Repeat("x", size)),
		"quotes":      inLog("t", strings.Repeat(`"`, size)), // each is escaped in JSON
		"escapes":     inLog("t", strings.Repeat("\x01", size/4)),
		"a torn line": strings.Repeat("2", size) + "\n",
		"ever longer": inLog("t", strings.Repeat("x", size/2)) +
			inLog("t", strings.Repeat("x", size*3/4)) + inLog("t", strings.Repeat("x", size)),
	} {
		longest := len(line) - 1 - strings.LastIndexByte(line[:len(line)-1], '\n')
		limit := 16<<20 + 3*longest
		path := filepath.Join(t.TempDir(), "log")
		before := strings.Repeat(inLog("t", "before"), 10)
		text := before + line + before + line
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, arguments := range [][]string{
			{"-log", path, "-end"}, {"-log", path, "-end", "-format", "json"},
			{"-log", path, "-end", "-count", "14", "--", "cat"}, {},
		} {
			peak := peakOf(t, consuming(arguments...), path)
			what := fmt.Sprint(name, arguments[min(len(arguments), 2):])
			bound := float64(limit) / (1 << 20)
			t.Logf("figure: %s: peak memory %.1f MiB, bound %.1f", what, peak, bound)
			if peak > bound {
				t.Errorf("%s: %.1f MiB of memory", what, peak)
			}
		}
	}
}

// peakOf runs a command to its end and returns its peak resident memory in MiB. The command
// reads the file at path, and its output is discarded.
func peakOf(t *testing.T, command *exec.Cmd, path string) float64 {
	t.Helper()
	input, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer nowhere.Close()
	command.Stdin, command.Stdout = input, nowhere
	process := bustest.Start(t, command)
	peak := peakUntilEnd(t, process)
	if status := process.Wait(); status != 0 || peak == 0 {
		t.Errorf("status %d: %s", status, process.Stderr)
	}
	return peak
}

// peakUntilEnd waits for the end of a process, and returns its peak resident memory in MiB.
func peakUntilEnd(t *testing.T, process *bustest.Process) float64 {
	t.Helper()
	peak := 0
	bustest.Until(t, "its end", func() bool {
		size, running := process.PeakMemory()
		peak = max(peak, size)
		return !running
	})
	return float64(peak) / (1 << 20)
}

// A consumer that waits takes at most 1 % of a core.
func TestConsumerIdle(t *testing.T) {
	if bustest.RaceDetector {
		t.Skip("the race detector takes time of its own")
	}
	store := newLogAndState(t, "1")
	rotated := newLogAndState(t, "1")
	if err := os.Rename(rotated.log, rotated.log+".1"); err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // other files, as in a directory of logs
		if err := os.WriteFile(fmt.Sprint(rotated.log, ".gz", i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, arguments := range map[string][]string{
		"with a log and a state":             store.with(),
		"without the file that has the name": rotated.with(),
	} {
		c := startConsumer(t, arguments...)
		c.has("1\n")
		best := 100.0 // the lowest of some seconds: a busy machine slows some
		for second := 0; second < bustest.LongOrShort(20, 1) || best > 1 && second < 20; second++ {
			begin, before := time.Now(), processorTime(t, c.Command.Process.Pid)
			time.Sleep(time.Second) // the time that is measured
			used := processorTime(t, c.Command.Process.Pid) - before
			best = min(best, 100*used.Seconds()/time.Since(begin).Seconds())
		}
		t.Logf("figure: idle, %s: %.2f %% of a core", name, best)
		if best > 1 {
			t.Errorf("%s: %.2f %% of a core", name, best)
		}
		c.stop()
	}
}

// processorTime returns the processor time of all threads of a process.
func processorTime(t *testing.T, pid int) (sum time.Duration) {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(paths) == 0 {
		t.Skipf("the kernel keeps no times of threads: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var used time.Duration
		if _, err := fmt.Sscan(string(text), &used); err != nil {
			t.Fatal(err)
		}
		sum += used
	}
	return sum
}
