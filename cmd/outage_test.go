//go:build unix

package cmd_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// An outage of more than five seconds is reported, and so is its end.
func TestOutage(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	producer := producerFor(address, nil, "-message", "x", "-retry", "1h")
	stderr := &bustest.Record{}
	producer.Stderr = stderr
	begin := time.Now()
	start(t, producer)
	bustest.Until(t, "the report", func() bool { return strings.HasSuffix(stderr.String(), "\n") })
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("it is reported after %s", took)
	}
	broker := startAt(t, address)
	if err := producer.Wait(); err != nil {
		t.Error(err)
	}
	want := "producer: " + address + ": not accepted: connect: connection refused; " +
		"retrying for up to 59m[0-9]+s\n" +
		"producer: " + address + ": accepted after [0-9]+s of retrying\n"
	if !regexp.MustCompile("^" + want + "$").MatchString(stderr.String()) {
		t.Errorf("standard error: %s", stderr)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("in the log: %q", got)
	}
}

// A producer that gives up reports the error, and no end of the outage.
func TestOutageWithoutEnd(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	status, _, stderr := finish(t, producerFor(address, nil, "-message", "x", "-retry", "10s"))
	const reason = "not accepted: connect: connection refused"
	want := "producer: " + address + ": " + reason + "; retrying for up to [0-9]s\n" +
		"producer: " + address + ": " + reason + "\n"
	if status != 1 || !regexp.MustCompile("^"+want+"$").MatchString(stderr) {
		t.Errorf("status %d: %s", status, stderr)
	}
}
