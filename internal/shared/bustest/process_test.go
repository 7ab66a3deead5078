package bustest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMain makes the test binary a program for TestProcess.
func TestMain(m *testing.M) {
	if os.Getenv("MBUS_PROCESS") != "" {
		os.Stdout.WriteString("out")
		os.Stderr.WriteString("err")
		os.Stdin.Read(make([]byte, 1)) // waits for the end of the input
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// A process has its output, its end and its exit status.
func TestProcess(t *testing.T) {
	program := func() *exec.Cmd {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), "MBUS_PROCESS=1")
		return command
	}
	if status, stdout, stderr := Run(t, program()); status != 3 || stdout != "out" ||
		!strings.HasPrefix(stderr, "err") {
		t.Errorf("status %d, wrote %q and %q", status, stdout, stderr)
	}
	waiting := program()
	input, err := waiting.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	process := Start(t, waiting)
	Until(t, "the output", func() bool { return process.Stdout.String() == "out" })
	select {
	case <-process.Ended:
		t.Error("the process has ended")
	default:
	}
	process.Kill()
	if status := process.Wait(); status != -1 {
		t.Errorf("after a kill the status is %d, want -1", status)
	}
	process.Kill()
}
