//go:build unix

package main_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// run runs the forwarder until it ends.
func run(t *testing.T, arguments ...string) (status int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bustest.Patience)
	defer cancel()
	command := exec.CommandContext(ctx, forwarder, arguments...)
	var reported strings.Builder
	command.Stderr = &reported
	output, _ := command.Output()
	return command.ProcessState.ExitCode(), string(output), reported.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, "-h")
	const want = "usage: forwarder -log FILE -state FILE -stream NAME [flags]\n"
	if status != 0 || stderr != "" || !strings.HasPrefix(stdout, want) ||
		strings.Contains(stdout, "mbus-") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	status, stdout, _ = run(t, "-version")
	if status != 0 || !strings.HasPrefix(stdout, "mbus forwarder ") {
		t.Errorf("status %d, version %s", status, stdout)
	}
}

// The forwarder takes the flags in the examples of its manual page.
func TestManualExamples(t *testing.T) {
	t.Parallel()
	const page = "../../build/package/man/mbus-forwarder.8"
	service, examples := bustest.Displays(t, page, "SERVICE"), bustest.Displays(t, page, "EXAMPLES")
	if len(service) != 1 || len(examples) != 1 {
		t.Fatalf("the page has the examples %q and %q, want one each", service, examples)
	}
	flags, isSet := strings.CutPrefix(service[0], "MBUS_FLAGS=")
	line, isCommand := strings.CutPrefix(examples[0], "mbus-forwarder ")
	if !isSet || !isCommand {
		t.Fatalf("%q and %q must set MBUS_FLAGS and run mbus-forwarder", service[0], examples[0])
	}
	for _, example := range []string{"-log mbus.log -state state " + flags, line} {
		// Without a directory for the state the forwarder ends, but not because of its flags.
		state := filepath.Join(t.TempDir(), "no/state")
		status, _, stderr := run(t, append(strings.Fields(example), "-state", state)...)
		if status != 1 || !strings.Contains(stderr, "no such file") {
			t.Errorf("%s: status %d: %s", example, status, stderr)
		}
	}
}

// misuses are wrong arguments, and what the error has.
var misuses = []struct{ arguments, want string }{
	{"-log=", "-log is missing"},
	{"-state=", "-state is missing"},
	{"-state=log", "-state log: must be another file than the log and its rotated files"},
	{"-state=./log.1", "-state ./log.1: must be another file than the log"},
	{"-stream=", "-stream is missing"},
	{"-stream a.b", `-stream "a.b": must have no`},
	{"-stream a*", "must have no"},
	{"-stream a/b", "must have no"},
	{"-prefix=", `-prefix "": must be letters`},
	{"-prefix mbus", `-prefix "mbus": must be letters`},
	{"-prefix .", "must be letters"},
	{"-prefix .a.", "must be letters"},
	{"-prefix a..b.", "must be letters"},
	{"-prefix a..", "must be letters"},
	{"-prefix $JS.", "must be letters"},
	{"-prefix a%.", "must be letters"},
	{"-prefix ż.", "must be letters"},
	{"-prefix >.", "must be letters"},
	{"-prefix mbus.*.", "must be letters"},
	{"-prefix " + strings.Repeat("a", 255) + ".", "at most 255 bytes"},
	{"-seek middle", `-seek "middle": must be start, end or here`},
	{"-timeout 0s", "-timeout 0s: must be a duration above 0"},
	{"-timeout -1s", "must be a duration above 0"},
	{"-timeout x", "must be a duration"},
	{"-url=", "-url: server 1 must be like nats://"},
	{"-url nats://a,nats://u:s3cret@b:port", "-url: server 2 must be like"},
	{"-url http://u:s3cret@host:4222", "-url: server 1 must be like"},
	{"more", `unexpected argument "more"`},
	{"-unknown", "not defined: -unknown"},
}

// Wrong usage is status 2 and one line, and makes no state.
func TestMisuse(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	good := []string{"-log", "log", "-state", state, "-stream", "ORDERS"}
	for _, test := range misuses {
		status, stdout, stderr := run(t, append(good, strings.Fields(test.arguments)...)...)
		if status != 2 || stdout != "" || !strings.Contains(stderr, test.want) ||
			strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "s3cret") {
			t.Errorf("%s: status %d, %s%s, want %s",
				test.arguments, status, stdout, stderr, test.want)
		}
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("there is a state")
	}
}

// A file that can't be read is status 1 and one line.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	nothing := filepath.Join(directory, "nothing")
	empty := filepath.Join(directory, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ flag, file, want string }{
		{"-creds", nothing, "no such file"},
		{"-ca", nothing, "no such file"},
		{"-ca", empty, "failed to parse"},
		{"-state", filepath.Join(nothing, "state"), "no such file"},
		{"-state", directory, "is a directory"},
	} {
		status, _, stderr := run(t, "-log", "log", "-state", filepath.Join(directory, "state"),
			"-stream", "ORDERS", "-url", "nats://127.0.0.1:1", test.flag, test.file)
		if status != 1 || !strings.Contains(stderr, test.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %s, want %s", test.flag, status, stderr, test.want)
		}
	}
}
