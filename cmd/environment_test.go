package cmd_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// collecting makes a command report each garbage collection on standard error, with
// variable in its environment.
func collecting(command *exec.Cmd, variable string) *exec.Cmd {
	command.Env = append(os.Environ(), "GOGC=", "GOMEMLIMIT=", "GODEBUG=gctrace=1", variable)
	return command
}

// GOGC and a lower GOMEMLIMIT in the environment outrank what the commands set: each
// makes them collect garbage several times as often.
func TestMemoryFromTheEnvironment(t *testing.T) {
	lines := strings.Join(numbers(1, 200_000), "\n")
	collections := func(variable string) (ofBroker, ofProducer int) {
		broker := startCommand(t, collecting(command("broker", "-pport", "0"), variable))
		producer := producing(broker.address(), strings.NewReader(lines), "-lines")
		status, _, stderr := finish(t, collecting(producer, variable))
		if status != 0 {
			t.Errorf("%s: status %d: %s", variable, status, stderr)
		}
		broker.drained()
		return strings.Count(broker.log.String(), "\ngc "), strings.Count("\n"+stderr, "\ngc ")
	}
	broker, producer := collections("MBUS=")
	for _, variable := range []string{"GOGC=3", "GOMEMLIMIT=6MiB"} {
		ofBroker, ofProducer := collections(variable)
		if ofBroker < 3*broker+3 || ofProducer < 3*producer+3 {
			t.Errorf("%s: collections: the broker's %d, without it %d; the producer's %d, %d",
				variable, ofBroker, broker, ofProducer, producer)
		}
	}
}
