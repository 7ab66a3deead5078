package broker

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
	"mbus/internal/shared/logline"
)

const (
	// gatherSize is about how many bytes of lines are collected before they are written.
	gatherSize = 64 << 10

	// settleBytes is how much of a long drain is written before each sync, in bytes as
	// messageBytes counts them.
	settleBytes = 8 << 20

	// lookInterval is the longest time between two looks of a store at its file's name, and
	// between two tries of a log that fails.
	lookInterval = time.Second

	// noticeTime is how long notices wait for others. To wake the ticker goroutine for each
	// would cost a busy broker more than queueing the messages.
	noticeTime = 10 * time.Millisecond

	// lastRetry is the time between two drains of a broker that stops.
	lastRetry = 100 * time.Millisecond
)

// drainer is what belongs to the ticker goroutine alone.
type drainer struct {
	config   *BrokerConfig
	queues   *queues
	log      logWriter
	due      int              // how many messages had been queued when the last drain began
	taken    int              // how many messages were ever taken out of the queues
	messages []*apiv1.Message // those that are being formatted
	outage   outage
	stderr   complaints // used with config.LogFile
}

// outage is a time in which the log fails.
type outage struct {
	reason string // the first error, escaped; empty: the log works
	since  time.Time
}

// open prepares a drainer of queues. With config.LogFile it opens that file, otherwise writer is
// the log.
func (d *drainer) open(config *BrokerConfig, queues *queues, writer io.Writer) error {
	d.config, d.queues = config, queues
	d.stderr = complaints{writer, make(chan struct{}, 1)}
	progress := make(chan struct{}, 1)
	d.log = newLog(writer, &store{path: config.LogFile, synced: config.Sync, progress: progress})
	if config.LogFile == "" {
		return nil
	}
	if err := d.log.store.open(); err != nil {
		return err
	}
	d.reportCut()
	d.write() // what can't be written now is written later
	return nil
}

// tickLoop is the ticker goroutine. It drains at each tick and when a drain is wanted, writes
// notices within noticeTime, and tries again within a second when the log fails. It returns when
// the loop has ended, which closes loopEnded, and everything is written, or when the log is gone.
func (d *drainer) tickLoop(loopEnded <-chan struct{}) error {
	var ticks, noticesDue <-chan time.Time
	if d.config.Interval > 0 {
		ticks = time.Tick(d.config.Interval)
	}
	looks, noticed := time.Tick(lookInterval), d.queues.noticed
	for {
		var err error
		select {
		case <-ticks:
			err = d.drain()
		case <-looks:
			err = d.write()
		case <-d.queues.crowded:
			err = d.write()
		case <-d.queues.wanted:
			err = d.drain()
		case <-noticed:
			noticesDue, noticed = time.After(noticeTime), nil
		case <-noticesDue:
			noticesDue, noticed = nil, d.queues.noticed
			err = d.write()
		case <-loopEnded:
			return d.lastDrain()
		}
		if d.log.isPermanent(err) {
			return err
		}
	}
}

// lastDrain drains until everything is written, or until the log is gone. The last line reports
// that the broker has stopped.
func (d *drainer) lastDrain() error {
	for stopped := false; ; {
		switch err := d.drain(); {
		case d.log.isPermanent(err), err == nil && stopped:
			return err
		case err == nil:
			stopped = true
			d.queues.notify("Broker: stopped")
		default:
			time.Sleep(lastRetry)
		}
	}
}

// awaitEnd waits for the end of the ticker goroutine of a broker that stops, and returns its
// result. It gives up when the log has taken nothing for config.Timeout. The loop calls it.
func (d *drainer) awaitEnd(result <-chan error) error {
	const minPatience = 200 * time.Millisecond // a log that works may need as long
	patience := max(d.config.Timeout, minPatience)
	for {
		select {
		case err := <-result:
			return err
		case <-d.log.store.progress: // a write or a sync has ended
		case <-time.After(patience):
			return fmt.Errorf("the log took nothing for %s", patience)
		}
	}
}

// drain is Broker.Drain.
func (d *drainer) drain() error {
	d.due, _ = d.queues.counts()
	err := d.write()
	d.queues.forgetMany()
	return err
}

// write writes the lines that the last error has left, all notices, and the messages that the last
// drain has left.
func (d *drainer) write() error {
	var err error
	for left := true; (left || d.taken < d.due) && err == nil; {
		if left = len(d.log.buffer) > 0; !left {
			d.fill()
		}
		err = d.log.flush()
		if !d.config.Sync || d.log.doneBytes >= settleBytes {
			err = cmp.Or(d.settle(), err)
		}
	}
	err = cmp.Or(d.settle(), err)
	d.noteOutage(err)
	d.reportCut()
	return err
}

// fill takes all notices, and about as many of the messages that are due as fit into one write,
// and formats their lines.
func (d *drainer) fill() {
	notices, messages := d.queues.take(d.messages, d.due-d.taken, gatherSize)
	d.log.addNotices(notices)
	now := time.Now()
	for i, message := range messages {
		d.log.addMessage(now, message)
		messages[i] = nil // so that its memory can be freed
	}
	d.messages = messages[:0]
	d.taken += len(messages)
}

// settle stops counting written messages as queued, and answers the payloads that are written.
// With config.Sync it syncs the log first.
func (d *drainer) settle() error {
	if d.log.doneMessages == 0 {
		return nil
	}
	if err := d.log.store.sync(); err != nil {
		return err
	}
	d.queues.answer(d.queues.settle(d.log.doneMessages, d.log.doneBytes))
	d.log.doneMessages, d.log.doneBytes = 0, 0
	return nil
}

// noteOutage records whether the log works: err is the result of the last write. A line of the
// log reports the end of an outage. With a store, a line on standard error reports its
// beginning, unless the error ends the broker.
func (d *drainer) noteOutage(err error) {
	outage := &d.outage
	switch {
	case err != nil && outage.reason == "":
		d.queues.logFailing.Store(1)
		outage.reason, outage.since = string(escape.Append(nil, []byte(err.Error()))), time.Now()
		if d.config.LogFile != "" && !d.log.isPermanent(err) {
			d.stderr.complain("Broker: the log fails, retrying: " + outage.reason)
		}
	case err == nil && outage.reason != "":
		d.queues.logFailing.Store(0)
		took := time.Since(outage.since).Round(time.Millisecond)
		d.queues.notify(fmt.Sprintf("Broker: the log took nothing for %s: %s", took, outage.reason))
		outage.reason = ""
	}
}

// reportCut adds a notice if the store has cut off a torn line.
func (d *drainer) reportCut() {
	if store := d.log.store; store.cut > 0 {
		d.queues.notify(fmt.Sprintf(
			"Broker: cut %d bytes of a torn line off the end of the log", store.cut))
		store.cut = 0
	}
}

// complaints are lines for standard error. Any goroutine may use them.
type complaints struct {
	stderr io.Writer
	busy   chan struct{} // full while a line is being written
}

// complain writes a line to standard error, in the format of the log. It does not wait. It
// drops the line while the line before is still being written.
func (c *complaints) complain(line string) {
	select {
	case c.busy <- struct{}{}:
		go func() {
			fmt.Fprintf(c.stderr, "%s%s\n", time.Now().Format(logline.StampFormat), line)
			<-c.busy
		}()
	default:
	}
}
