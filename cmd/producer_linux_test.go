package cmd_test

import (
	"fmt"
	"regexp"
	"testing"
)

// On a terminal, the report of an outage has a line of its own: the progress is erased
// before it and shown again after it.
func TestOutageOnATerminal(t *testing.T) {
	t.Parallel()
	address := free(t)
	person, program := terminal(t)
	seen := watch(person)
	command := producing(address, nil, "-lines", "-retry", "1h")
	command.Stderr = program
	input, _ := typing(t, command)
	fmt.Fprintln(input, 1)
	reported := regexp.MustCompile(`^(\r0 messages, 0/s *)+\r +\r` +
		`producer: [0-9.:]+: not accepted: .*; retrying for up to [0-9m]+s\r\n` +
		`\r0 messages, 0/s`)
	until(t, "the report", func() bool { return reported.MatchString(seen.String()) })
	broker := startAt(t, address)
	ended := regexp.MustCompile(`\r +\rproducer: [0-9.:]+: accepted after [0-9]+s of retrying\r\n`)
	until(t, "the end", func() bool { return ended.MatchString(seen.String()) })
	input.Close()
	if err := command.Wait(); err != nil {
		t.Errorf("%v: %q", err, seen.String())
	}
	broker.drained()
}
