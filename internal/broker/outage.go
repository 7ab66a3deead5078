package broker

import (
	"fmt"
	"time"

	"mbus/internal/shared/escape"
)

// outage is a time in which the log fails.
type outage struct {
	reason string // its first error, printable; empty: the log works
	since  time.Time
}

// noteOutage notes whether the log works: err is nil, or the error with which it fails.
// With a store, one line on standard error reports that an outage begins, unless it ends
// the broker. One line of the log reports that an outage is over.
func (broker *Broker) noteOutage(err error) {
	outage := &broker.outage
	switch {
	case err != nil && outage.reason == "":
		outage.reason, outage.since = string(escape.Append(nil, []byte(err.Error()))), time.Now()
		if broker.store != nil && !broker.log.isPermanent(err) {
			broker.complain("Broker: the log fails, trying on: " + outage.reason)
		}
	case err == nil && outage.reason != "":
		took := time.Since(outage.since).Round(time.Millisecond)
		broker.notify(fmt.Sprintf("Broker: the log took nothing for %s: %s", took, outage.reason))
		outage.reason = ""
	}
}

// complain writes a line to standard error, in the format of the log. It does not
// wait, and drops the line if standard error has not taken the one before.
func (broker *Broker) complain(line string) {
	select {
	case broker.complaint <- struct{}{}:
		go func() {
			fmt.Fprintf(broker.stderr, "%s%s\n", time.Now().Format(stampFormat), line)
			<-broker.complaint
		}()
	default:
	}
}
