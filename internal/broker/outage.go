package broker

import (
	"fmt"
	"time"
)

// outage is a time in which the log fails.
type outage struct {
	err   error // its first error; nil: the log works
	since time.Time
}

// beginOutage notes that the log failed with err. A log that is a store can't say so
// itself, so one line on standard error does, unless the failure ends the broker.
func (broker *Broker) beginOutage(err error) {
	if broker.outage.err != nil {
		return
	}
	broker.outage = outage{err, time.Now()}
	if broker.store != nil && !broker.log.isPermanent(err) {
		broker.complain(fmt.Sprintf("Broker: the log fails, trying on: %v", err))
	}
}

// endOutage writes a line about the outage that is over, if there was one. All that
// was taken must be written.
func (broker *Broker) endOutage() error {
	outage := broker.outage
	if outage.err == nil {
		return nil
	}
	broker.outage.err = nil
	took := time.Since(outage.since).Round(time.Millisecond)
	line := fmt.Sprintf("Broker: the log took nothing for %s: %v", took, outage.err)
	broker.taken.reset([]notice{{when: time.Now(), line: line}}, 0)
	return broker.writeTaken()
}

// complain writes a line to standard error, in the format of the log. It does not
// wait for that, and leaves the line out while an earlier one is not taken.
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
