package broker

import (
	"cmp"
	"fmt"
	"io"
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
	messages []*apiv1.Message // those that are being formatted

	outage      string // the error with which the log began to fail, escaped; empty: the log works
	outageBegin time.Time

	formatting atomic.Bool // fill runs; see awaitEnd

	stderr    io.Writer  // gets a line when a log with a path begins to fail
	reporting sync.Mutex // locked while that line is being written
}

// open prepares a drainer of queues. With config.LogFile it opens that file, otherwise writer is
// the log.
func (d *drainer) open(config *BrokerConfig, queues *queues, writer io.Writer) error {
	d.config, d.queues, d.stderr = config, queues, writer
	d.log = newLog(writer, &store{
		path:     config.LogFile,
		synced:   config.Sync,
		notify:   queues.notify,
		progress: newSignal(),
	})
	if _, err := d.log.store.look(0); err != nil { // opens the file, if there is one
		return err
	}
	d.write() // what can't be written now is written later
	return nil
}

// tickLoop is the ticker goroutine. It drains at each tick, writes at once what is urgent and
// notices within noticeTime, and tries again within a second when the log fails. It returns when
// the loop has ended, which closes loopEnded, and everything is written, or when the log is gone.
func (d *drainer) tickLoop(loopEnded <-chan struct{}) error {
	var ticks, noticesDue <-chan time.Time
	if d.config.Interval > 0 {
		ticks = time.Tick(d.config.Interval)
	}
	looks, noticed := time.Tick(lookInterval), d.queues.noticed
	for {
		write := d.write
		select {
		case <-ticks:
			write = d.drain
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
		if err := write(); d.log.isPermanent(err) {
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
// result. It gives up when the log has taken nothing for config.Timeout, besides the time that the
// goroutine needs to format a long line. The loop calls it.
func (d *drainer) awaitEnd(result <-chan error) error {
	const minPatience = 200 * time.Millisecond // a log that works may need as long
	patience := max(d.config.Timeout, minPatience)
	for {
		select {
		case err := <-result:
			return err
		case <-d.log.store.progress: // a write or a sync has ended, or messages were formatted
		case <-time.After(patience):
			if !d.formatting.Load() {
				return fmt.Errorf("the log took nothing for %s", patience)
			}
		}
	}
}

// drain is Broker.Drain.
func (d *drainer) drain() error {
	d.queues.mutex.Lock()
	d.queues.demand()
	d.queues.mutex.Unlock()
	return d.write()
}

// write writes the lines that the last error has left, all notices, and the messages that are due
// when it begins.
func (d *drainer) write() error {
	due := d.queues.prepare()
	var err error
	for more := true; more && err == nil; {
		if len(d.log.buffer) == 0 {
			more = d.fill(due)
		}
		err = d.log.flush()
		isEnd := !more || err != nil
		if isEnd || !d.config.Sync || d.log.doneBytes >= settleBytes {
			err = cmp.Or(d.settle(), err)
		}
	}
	d.trackOutage(err)
	return err
}

// fill takes all notices, and about as many of the messages up to number due as fit into one
// write, and formats their lines. It returns true if more of these messages are left.
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
		d.log.store.progress.send()
	}
	d.formatting.Store(false)
	return more
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
	answer(d.queues.settle(d.log.doneMessages, d.log.doneBytes))
	d.log.doneMessages, d.log.doneBytes = 0, 0
	return nil
}

// trackOutage is called with the result of each write. An outage begins with an error, and ends
// with the first success. A line of the log reports its end. If the log is a file, a line on
// standard error reports its beginning, unless the error ends the broker.
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

// report writes a line to standard error, in the format of the log. It does not wait for the write.
// While an earlier line is still being written, it drops the line.
func (d *drainer) report(line string) {
	if d.reporting.TryLock() {
		go func() {
			defer d.reporting.Unlock()
			fmt.Fprintf(d.stderr, "%s%s\n", time.Now().Format(logline.StampFormat), line)
		}()
	}
}
