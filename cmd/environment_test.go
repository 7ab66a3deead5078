//go:build unix

package cmd_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// traceCollections makes a command report each garbage collection on standard error, with
// variable in its environment.
func traceCollections(command *exec.Cmd, variable string) *exec.Cmd {
	command.Env = append(os.Environ(), "GOGC=", "GOMEMLIMIT=", "GODEBUG=gctrace=1", variable)
	return command
}

// GOGC and a lower GOMEMLIMIT in the environment outrank what the commands set: each
// makes them collect garbage several times as often.
func TestMemoryFromTheEnvironment(t *testing.T) {
	lines := strings.Join(bustest.Numbers(1, 200_000), "\n")
	collections := func(variable string) (ofBroker, ofProducer int) {
		broker := startCommand(t, traceCollections(brokerCommand(), variable))
		input := strings.NewReader(lines)
		producer := traceCollections(producerFor(broker.Address, input, "-lines"), variable)
		status, _, stderr := finish(t, producer)
		if status != 0 {
			t.Errorf("%s: status %d: %s", variable, status, stderr)
		}
		broker.stop()
		ofBroker = strings.Count(broker.Log.String(), "\ngc ")
		return ofBroker, strings.Count("\n"+stderr, "\ngc ")
	}
	broker, producer := collections("MBUS=")
	for _, variable := range []string{"GOGC=3", "GOMEMLIMIT=6MiB"} {
		ofBroker, ofProducer := collections(variable)
		if ofBroker < 3*broker+3 || ofProducer < 3*producer+3 {
			t.Errorf("%s: garbage collections: the broker's %d, without it %d; "+
				"the producer's %d, without it %d",
				variable, ofBroker, broker, ofProducer, producer)
		}
	}
}
