package bustest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// RaceDetector is true if the test has the race detector. The commands that Build builds have
// it then, too. Their processor time and their memory are not those that a user sees.
var RaceDetector = hasRaceDetector()

func hasRaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil &&
		slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Torture selects the long form of the campaigns of faults and hostile input. "make torture"
// sets the environment variable MBUS_TORTURE. All other tests are the same in both forms.
var Torture = os.Getenv("MBUS_TORTURE") != ""

// LongOrShort returns long in the long form of the campaigns, and short otherwise.
func LongOrShort(long, short int) int {
	if Torture {
		return long
	}
	return short
}

// Benchmark skips a test that measures speed, unless the environment variable MBUS_BENCH, which
// "make bench" sets, selects it.
func Benchmark(t testing.TB) {
	t.Helper()
	if os.Getenv("MBUS_BENCH") == "" {
		t.Skip("make bench runs this")
	}
}

// Build builds the commands in packages, and returns the new directory that has them. A function
// TestMain calls it, and removes the directory after the tests. If it fails, it ends the process.
func Build(packages ...string) (directory string) {
	// By default a program with the race detector sleeps for a second before it exits.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	directory, err := os.MkdirTemp("", "mbus")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	arguments := []string{"build", "-o", directory}
	if RaceDetector {
		arguments = append(arguments, "-race")
	}
	output, err := exec.Command("go", append(arguments, packages...)...).CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, output)
		os.RemoveAll(directory)
		os.Exit(1)
	}
	return directory
}

// Process is a command that a test has started. Any goroutine may read its fields. Only the
// test's own goroutine may call its methods, because a method that fails ends the test.
type Process struct {
	Command *exec.Cmd     // its fields are not to be changed
	Ended   chan struct{} // closed when the process has ended

	// Stdout and Stderr have what the process has written so far. One that the caller has
	// redirected is empty.
	Stdout, Stderr *Record

	t testing.TB
}

// Start starts a command. When the test ends, the process is killed, and the test fails if
// the race detector has reported a data race on standard error.
func Start(t testing.TB, command *exec.Cmd) *Process {
	t.Helper()
	process := &Process{command, make(chan struct{}), &Record{}, &Record{}, t}
	if command.Stdout == nil {
		command.Stdout = process.Stdout
	}
	if command.Stderr == nil {
		command.Stderr = process.Stderr
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		command.Wait()
		close(process.Ended)
	}()
	t.Cleanup(func() {
		process.Kill()
		if strings.Contains(process.Stderr.String(), "DATA RACE") {
			t.Errorf("%q has a data race:\n%s", command.Args, process.Stderr)
		}
	})
	return process
}

// Run starts a command, and waits for its end. It returns the exit status and what the command
// has written.
func Run(t testing.TB, command *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	process := Start(t, command)
	status = process.Wait()
	return status, process.Stdout.String(), process.Stderr.String()
}

// Wait waits for the end of the process, and returns the exit status: -1 after a signal. After
// Patience it fails the test.
func (p *Process) Wait() (status int) {
	p.t.Helper()
	select {
	case <-p.Ended:
	case <-time.After(Patience):
		p.t.Fatalf("%q did not end within %s, and wrote to standard error:\n%.2000s",
			p.Command.Args, Patience, p.Stderr)
	}
	return p.Command.ProcessState.ExitCode()
}

// Signal sends a signal to the process. It fails the test if the process has ended.
func (p *Process) Signal(kind os.Signal) {
	p.t.Helper()
	if err := p.Command.Process.Signal(kind); err != nil {
		p.t.Fatalf("%q: %v; it wrote to standard error:\n%.2000s",
			p.Command.Args, err, p.Stderr)
	}
}

// Kill kills the process, and waits for its end. It does nothing if the process has ended.
func (p *Process) Kill() {
	p.Command.Process.Kill()
	<-p.Ended
}
