//go:build unix

package cmd_test

import (
	"io"
	"regexp"
	"strconv"
	"testing"
)

// report has the numbers of the line that a producer with -lines prints when it ends.
type report struct {
	accepted    int
	first, last int    // the lines that were not or may not be accepted; last 0: to the end
	reason      string // why the producer stopped; empty after a success
}

// parseReport parses the standard error of a producer with -lines. It fails the test unless that
// is one line.
func parseReport(t *testing.T, stderr string) report {
	t.Helper()
	format := regexp.MustCompile(`^(?:mbus-)?producer: (\d+) messages? accepted in [0-9.µmsh]+` +
		`(?:; (?:from line (\d+) on|line (\d+)|lines (\d+) to (\d+)): (.+))?\n$`)
	match := format.FindStringSubmatch(stderr)
	if match == nil {
		t.Fatalf("standard error is %q, want one report", stderr)
	}
	number := func(i int) int {
		value, _ := strconv.Atoi(match[i])
		return value
	}
	return report{
		accepted: number(1),
		first:    number(2) + number(3) + number(4),
		last:     number(3) + number(5),
		reason:   match[6],
	}
}

// sendLines runs a producer that sends the lines of input. It returns the exit status and the
// report.
func sendLines(t *testing.T, address string, input io.Reader, arguments ...string) (int, report) {
	t.Helper()
	producer := producerFor(address, input, append([]string{"-lines"}, arguments...)...)
	status, stdout, stderr := finish(t, producer)
	if stdout != "" {
		t.Errorf("standard output is %q, want nothing", stdout)
	}
	return status, parseReport(t, stderr)
}
