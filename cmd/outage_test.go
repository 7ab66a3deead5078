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

// The producer reports an outage of more than five seconds, and its end.
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
		t.Errorf("the producer reported the outage after %s, want at least 5s", took)
	}
	broker := startAt(t, address)
	if err := producer.Wait(); err != nil {
		t.Errorf("the producer failed: %v", err)
	}
	want := "producer: " + address + ": not accepted: connect: connection refused; " +
		"retrying for up to 59m[0-9]+s\n" +
		"producer: " + address + ": accepted after [0-9]+s of retrying\n"
	if !regexp.MustCompile("^" + want + "$").MatchString(stderr.String()) {
		t.Errorf("standard error is %q, want a match of %q", stderr, want)
	}
	if got := broker.stopAndReceive(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("the messages in the log are %q, want x", got)
	}
}

// A producer that gives up reports the error. It does not report an end of the outage.
func TestOutageWithoutEnd(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	status, _, stderr := finish(t, producerFor(address, nil, "-message", "x", "-retry", "10s"))
	const reason = "not accepted: connect: connection refused"
	want := "producer: " + address + ": " + reason + "; retrying for up to [0-9]s\n" +
		"producer: " + address + ": " + reason + "\n"
	if status != 1 || !regexp.MustCompile("^"+want+"$").MatchString(stderr) {
		t.Errorf("the producer ended with status %d and standard error %q, "+
			"want 1 and a match of %q", status, stderr, want)
	}
}
