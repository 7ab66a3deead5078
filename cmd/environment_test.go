//go:build unix

package cmd_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

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
