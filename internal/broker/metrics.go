package broker

import (
	"fmt"
	"os"
	"time"

	"mbus/internal/shared/escape"
	"mbus/internal/shared/metrics"
)

// metricsInterval is the time from one writing of the counts to the next.
const metricsInterval = 10 * time.Second

// checkMetrics returns an error if config.Metrics is a file that must not be replaced.
func (b *Broker) checkMetrics() error {
	path := b.config.Metrics
	// A result of Stat is nil after an error, and then it is not the same file as any other.
	found, _ := os.Lstat(path)
	log, _ := os.Stat(b.config.LogFile)
	if file, isFile := b.drainer.log.writer.(*os.File); isFile {
		log, _ = file.Stat()
	}
	if os.SameFile(log, found) {
		return fmt.Errorf("-metrics %s: is the log, must be another file", path)
	}
	if err := metrics.Check(path); err != nil {
		return fmt.Errorf("-metrics %w", err)
	}
	return nil
}

// keepMetrics writes the counts to config.Metrics at once, every metricsInterval, and once more
// when ending is closed. Then it closes ended. When writing begins to fail and when it succeeds
// again, the log has a line about it.
func (b *Broker) keepMetrics(ending <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	path, failing := b.config.Metrics, false
	for isLast := path == ""; !isLast; {
		err := metrics.Write(path, b.counted())
		if failing != (err != nil) {
			failing = !failing
			text := path + ": it is written again"
			if failing {
				text = err.Error()
			}
			b.notify("Broker: -metrics " + string(escape.Append(nil, []byte(text))))
		}
		select {
		case <-time.After(metricsInterval):
		case <-ending:
			isLast = true
			metrics.Write(path, b.counted())
		}
	}
}

// counted returns the counts.
func (b *Broker) counted() (text metrics.Text) {
	q := &b.queues
	q.mutex.Lock()
	defer q.mutex.Unlock()
	text.Add("mbus_payloads_accepted_total", "Payloads accepted.", q.payloadsAccepted)
	text.Add("mbus_payloads_refused_total", "Payloads refused.", q.payloadsRefused)
	text.Add("mbus_messages_accepted_total", "Messages accepted.", q.accepted)
	text.Add("mbus_messages_written_total", "Messages written to the log.", q.written)
	text.Add("mbus_unwritten_messages", "Messages accepted, not written yet.", q.accepted-q.written)
	text.Add("mbus_unwritten_bytes", "What counts towards -max-queued.", q.used)
	text.Add("mbus_unwritten_bytes_limit", "The broker's -max-queued.", q.limit)
	text.Add("mbus_topics", "Known topics.", len(q.topics))
	text.Add("mbus_log_failing", "1 while the log fails, otherwise 0.", int(q.logFailing.Load()))
	text.Add("mbus_start_time_seconds", "The start in Unix time.", int(b.begin.Unix()))
	return text
}
