package broker

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/escape"
	"mbus/internal/shared/logline"
)

const (
	// settleBytes is how much of a long drain is written before each sync, in bytes as
	// messageBytes counts them.
	settleBytes = 8 << 20

	// lookInterval is the longest time between two looks of a store at its file, and between
	// two tries to write to a log that fails.
	lookInterval = time.Second

	// noticeTime is how long a notice waits for others, so that they are written together. To
	// wake the ticker goroutine for each would cost a busy broker more than queueing messages.
	noticeTime = 10 * time.Millisecond

	// lastRetry is the time between two tries to write to a log that fails while the broker
	// stops.
	lastRetry = 100 * time.Millisecond
)

// drainer is what belongs to the ticker goroutine. Once that runs, the loop uses only awaitEnd.
type drainer struct {
	config   *BrokerConfig
	queues   *queues
	log      logWriter
	messages []*apiv1.Message // fill's list, empty between two calls, so that its memory is reused

	outage      string    // the error that began an outage, escaped; empty: the log works
	outageBegin time.Time // when that was

	formatting atomic.Bool // fill is running; awaitEnd, which the loop calls, reads it

	stderr    io.Writer  // config.Log or standard error
	reporting sync.Mutex // locked while report writes to stderr
}

// open makes d ready to drain queues. With config.LogFile it opens that file as the log.
func (d *drainer) open(config *BrokerConfig, queues *queues) error {
	d.config, d.queues = config, queues
	d.stderr = cmp.Or[io.Writer](config.Log, os.Stderr)
	d.log = newLog(d.stderr, &store{
		path:     config.LogFile,
		synced:   config.Sync,
		notify:   queues.notify,
		progress: newSignal(),
	})
	if _, err := d.log.store.look(0); err != nil { // look opens the file
		return err
	}
	d.drain(false) // what can't be written now is written later
	return nil
}

// tickLoop is the ticker goroutine. It drains at each tick. Between ticks it writes at once what is
// urgent, and notices within noticeTime. It tries again within a second when the log fails. It
// returns nil after loopEnded is closed and everything is written. It returns an error when the log
// is gone.
func (d *drainer) tickLoop(loopEnded <-chan struct{}) error {
	var ticks, noticesDue <-chan time.Time
	if d.config.Interval > 0 {
		ticks = time.Tick(d.config.Interval)
	}
	looks, noticed := time.Tick(lookInterval), d.queues.noticed
	for {
		all := false
		select {
		case <-ticks:
			all = true
		case <-looks:
		case <-d.queues.urgent:
		case <-noticed:
			noticesDue, noticed = time.After(noticeTime), nil
			continue
		case <-noticesDue:
			noticesDue, noticed = nil, d.queues.noticed
		case <-loopEnded:
			return d.lastDrain()
		}
		if err := d.drain(all); d.log.isPermanent(err) {
			return err
		}
	}
}

// lastDrain drains until everything is written, or until the log is gone. The last line of the log
// says that the broker has stopped.
func (d *drainer) lastDrain() error {
	for stopped := false; ; {
		switch err := d.drain(true); {
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

// awaitEnd waits until the ticker goroutine of a broker that stops has ended, and returns its
// result. It gives up with an error when the log has taken nothing for config.Timeout, but not
// while the goroutine formats a long line. The loop calls it.
func (d *drainer) awaitEnd(result <-chan error) error {
	const minPatience = 200 * time.Millisecond // what a log that works may need for a write
	patience := max(d.config.Timeout, minPatience)
	for {
		select {
		case err := <-result:
			return err
		case <-d.log.store.progress:
		case <-time.After(patience):
			if !d.formatting.Load() {
				return fmt.Errorf("the log took nothing for %s", patience)
			}
		}
	}
}

// drain writes the lines that were left after an error, all notices, and the messages that are due
// when it begins. If all is true, all that are queued are due. It settles what it has written.
func (d *drainer) drain(all bool) error {
	due := d.queues.prepare(all)
	var err error
	for more := true; more && err == nil; {
		if len(d.log.buffer) == 0 {
			more = d.fill(due)
		}
		err = d.log.flush()
		isEnd := !more || err != nil
		if isEnd || !d.config.Sync || d.log.unsettledBytes >= settleBytes {
			err = cmp.Or(d.settle(), err)
		}
	}
	d.trackOutage(err)
	return err
}

// fill takes all notices, and about gatherSize bytes of the messages up to number due, and adds
// their lines to the log's buffer. It returns true if more of these messages are left.
func (d *drainer) fill(due int) bool {
	d.formatting.Store(true)
	notices, messages, more := d.queues.take(d.messages, due)
	d.log.addNotices(notices)
	now := time.Now()
	for i, message := range messages {
		d.log.addMessage(now, message)
		messages[i] = nil // so that its memory can be freed
	}
	d.messages = messages[:0]
	if len(messages) > 0 {
		d.log.store.progress.send() // awaitEnd's patience begins anew with the write
	}
	d.formatting.Store(false)
	return more
}

// settle stops counting written messages as queued, and sends the replies that waited for them.
// With config.Sync it syncs the log first.
func (d *drainer) settle() error {
	if d.log.unsettledMessages == 0 {
		return nil
	}
	if err := d.log.store.sync(); err != nil {
		return err
	}
	answer(d.queues.settle(d.log.unsettledMessages, d.log.unsettledBytes))
	d.log.unsettledMessages, d.log.unsettledBytes = 0, 0
	return nil
}

// trackOutage gets the result of each drain. An outage begins with an error, and ends with the next
// drain that has none. The log has a line about its end. If the log is a file, standard error has a
// line about its beginning, unless the error ends the broker.
func (d *drainer) trackOutage(err error) {
	switch {
	case err != nil && d.outage == "":
		d.queues.logFailing.Store(1)
		d.outage, d.outageBegin = string(escape.Append(nil, []byte(err.Error()))), time.Now()
		if d.config.LogFile != "" && !d.log.isPermanent(err) {
			d.report("Broker: the log fails, retrying: " + d.outage)
		}
	case err == nil && d.outage != "":
		d.queues.logFailing.Store(0)
		took := time.Since(d.outageBegin).Round(time.Millisecond)
		d.queues.notify(fmt.Sprintf("Broker: the log took nothing for %s: %s", took, d.outage))
		d.outage = ""
	}
}

// report writes a line to standard error, in the log's format. It does not wait for the write. If
// the line before is still being written, it drops the line.
func (d *drainer) report(line string) {
	if d.reporting.TryLock() {
		go func() {
			defer d.reporting.Unlock()
			fmt.Fprintf(d.stderr, "%s%s\n", time.Now().Format(logline.StampFormat), line)
		}()
	}
}
