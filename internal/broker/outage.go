package broker

import (
	"fmt"
	"time"

	"mbus/internal/shared/escape"
)

// outage is a time in which the log fails.
type outage struct {
	reason string // the first error, escaped; empty: the log works
	since  time.Time
}

// noteOutage records whether the log works: err is the result of the last write. A line of the
// log reports the end of an outage. With a store, a line on standard error reports its
// beginning, unless the error ends the broker.
func (broker *Broker) noteOutage(err error) {
	outage := &broker.outage
	switch {
	case err != nil && outage.reason == "":
		outage.reason, outage.since = string(escape.Append(nil, []byte(err.Error()))), time.Now()
		if broker.store != nil && !broker.log.isPermanent(err) {
			broker.complain("Broker: the log fails, retrying: " + outage.reason)
		}
	case err == nil && outage.reason != "":
		took := time.Since(outage.since).Round(time.Millisecond)
		broker.notify(fmt.Sprintf("Broker: the log took nothing for %s: %s", took, outage.reason))
		outage.reason = ""
	}
}

// complain writes a line to standard error, in the format of the log. It does not wait. It
// drops the line while the line before is still being written.
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
