//go:build unix

package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// linkedCommand returns the command name. It is run through a symbolic link, and so by the
// link's name.
func linkedCommand(t *testing.T, name, link string, arguments ...string) *exec.Cmd {
	t.Helper()
	path := filepath.Join(t.TempDir(), link)
	if err := os.Symlink(filepath.Join(binaries, name), path); err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, arguments...)
}

// A command prints the name that it was run by. Only -version prints the command's own name.
func TestName(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	for _, test := range []struct {
		name, link string
		arguments  []string
		want       string // the beginning of the output
	}{
		{"broker", "mbus-broker", []string{"-h"}, "usage: mbus-broker [flags]\n"},
		{"broker", "mbus-broker", []string{"-version"}, "mbus broker "},
		{"broker", "mbus-broker", []string{"-pport", "x"}, "mbus-broker: -pport \"x\": must be a " +
			"number from 0 to 65535, 0 for a free port (see mbus-broker -h)\n"},
		{"broker", "mbus-broker", []string{"-pport", broker.port}, "mbus-broker: listen tcp "},
		{"broker", "a\nb", []string{"-pport", broker.port}, `a\nb: listen tcp `},
		{"consumer", "mbus-consumer", []string{"-h"}, "usage: mbus-consumer [-log FILE "},
		{"consumer", "mbus-consumer", []string{"-log", "no/such/log", "-end"}, "mbus-consumer: "},
		{"producer", "mbus-producer", []string{"-h"}, "usage: mbus-producer -topic TOPIC "},
		{"producer", "mbus-producer", []string{"-version"}, "mbus producer "},
		{"producer", "mbus-producer", nil, "mbus-producer: -topic is missing or empty: " +
			"must be the topic to send to (see mbus-producer -h)\n"},
		{"producer", "mbus-producer", []string{"-port", broker.port, "-topic", "t", "-lines"},
			"mbus-producer: 0 messages accepted in "},
		{"producer", "mbus-producer",
			[]string{"-port", "1", "-topic", "t", "-message", "x", "-timeout", "1ns"},
			"mbus-producer: 127.0.0.1:1: not accepted: "},
	} {
		_, stdout, stderr := finish(t, linkedCommand(t, test.name, test.link, test.arguments...))
		if output := stdout + stderr; !strings.HasPrefix(output, test.want) {
			t.Errorf("%s %q printed %q, want %q at the beginning",
				test.link, test.arguments, output, test.want)
		}
	}
	_, usage, _ := finish(t, linkedCommand(t, "producer", "mbus-producer", "-h"))
	for _, example := range []string{"  mbus-producer -topic ", " | mbus-producer -topic "} {
		if !strings.Contains(usage, example) {
			t.Errorf("the usage has no example with %q:\n%s", example, usage)
		}
	}
	broker.Accept(bustest.Payload("t", "1"), 1)
}

// copySource copies the files of the repository into a directory, except for the tests.
func copySource(t *testing.T, directory string) {
	t.Helper()
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	list.Dir = ".."
	files, err := list.Output()
	if err != nil {
		t.Skipf("the source is in no git repository: %v", err)
	}
	for name := range strings.Lines(string(files)) {
		name = strings.TrimSuffix(name, "\n")
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile("../" + name)
		if err == nil {
			err = os.MkdirAll(filepath.Join(directory, filepath.Dir(name)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(directory, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// "make" builds all commands with the version that "git describe" prints. Outside of a git
// repository the commands have the version that Go gives them.
func TestMakeVersion(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"make", "git"} {
		tool(t, program)
	}
	source := t.TempDir()
	copySource(t, source)
	expectVersion := func(want, script string) {
		t.Helper()
		command := exec.Command("sh", "-ec", script)
		command.Dir = source
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, output)
		}
		for _, name := range []string{"broker", "producer"} {
			command := exec.Command(filepath.Join(source, "build", name), "-version")
			_, stdout, _ := finish(t, command)
			if !strings.HasPrefix(stdout, "mbus "+name+" "+want+", go") {
				t.Errorf("%s -version printed %q, want the version %s", name, stdout, want)
			}
		}
	}
	expectVersion("(devel)", "make")
	expectVersion("v1.2", `git init -q
		git add .
		git -c user.name=test -c user.email=test@example.com commit -qm test
		git -c user.name=test -c user.email=test@example.com tag -am test v1.2
		make`)
	expectVersion("v1.2-dirty", "echo >> README.md; make")
}

// A command that fails ends with the right status even if it can't write to standard error.
func TestStatusWithoutStandardError(t *testing.T) {
	t.Parallel()
	const badHost = "256.1.1.1"
	for name, test := range map[string]struct {
		status    int
		arguments []string
	}{
		"misuse of the broker":   {2, []string{"broker", "-interval", "-1s"}},
		"a broker's failure":     {1, []string{"broker", "-phost", badHost}},
		"misuse of the producer": {2, []string{"producer", "-bad"}},
		"a producer's failure": {1, []string{"producer", "-host", badHost,
			"-topic", "t", "-message", "x"}},
	} {
		for _, full := range []bool{false, true} {
			stderr := brokenPipe(t, full)
			command := command(test.arguments[0], test.arguments[1:]...)
			command.Stderr = stderr
			if got, _, _ := finish(t, command); got != test.status {
				t.Errorf("%s, with a full pipe: %v: status %d, want %d",
					name, full, got, test.status)
			}
		}
	}
}

// brokenPipe returns the writing end of a pipe that can't be written to. If full is true, the
// pipe is full and nobody reads it. Otherwise its reading end is closed.
func brokenPipe(t *testing.T, full bool) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		writer.Close()
		reader.Close()
	})
	if !full {
		reader.Close()
		return writer
	}
	writer.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for err == nil {
		_, err = writer.Write(make([]byte, 4096))
	}
	return writer
}

// traceCollections makes a command report each garbage collection on standard error. It also
// sets variable, "NAME=value", in the command's environment.
func traceCollections(command *exec.Cmd, variable string) *exec.Cmd {
	command.Env = append(os.Environ(), "GOGC=", "GOMEMLIMIT=", "GODEBUG=gctrace=1", variable)
	return command
}

// GOGC and GOMEMLIMIT in the environment override the values that the commands set. A lower
// value of either makes a command collect garbage several times as often.
func TestMemoryFromTheEnvironment(t *testing.T) {
	lines := strings.Join(bustest.Numbers(1, 200_000), "\n")
	collections := func(variable string) (ofBroker, ofProducer int) {
		broker := startCommand(t, traceCollections(brokerCommand(), variable))
		input := strings.NewReader(lines)
		producer := traceCollections(producerFor(broker.Address, input, "-lines"), variable)
		status, _, stderr := finish(t, producer)
		if status != 0 {
			t.Errorf("with %s the producer ended with status %d: %s", variable, status, stderr)
		}
		broker.stop()
		ofBroker = strings.Count(broker.Log.String(), "\ngc ")
		return ofBroker, strings.Count("\n"+stderr, "\ngc ")
	}
	broker, producer := collections("MBUS=")
	for _, variable := range []string{"GOGC=3", "GOMEMLIMIT=6MiB"} {
		ofBroker, ofProducer := collections(variable)
		if ofBroker < 3*broker+3 || ofProducer < 3*producer+3 {
			t.Errorf("with %s the broker collected garbage %d times and the producer %d times, "+
				"without it %d and %d times, want at least 3 times as often",
				variable, ofBroker, ofProducer, broker, producer)
		}
	}
}
