package consumer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
	"mbus/internal/shared/metrics"
)

// lag is how much of the log a consumer has before it.
type lag struct {
	messages, bytes int
	oldest, last    string // the time stamps of the first of messages, and of the log's last line
}

// Lag writes to Output how much of the log the consumer of Config.State has before it, in the text
// format of Prometheus; see package metrics. It takes no lock, changes nothing, and syncs nothing.
// If there is no position, it counts the whole log. The error says what could not be read or
// written, or is the cause of ctx's end. A Consumer's Lag must be called only once, and without
// Subscribe.
func (c *Consumer) Lag(ctx context.Context) error {
	position, noted, _, err := follow.ReadState(c.config.State, kind)
	if err != nil {
		return err
	}
	if c.window.earlier, err = c.earlier(ctx, position, parseNote(noted)); err != nil {
		return err
	}
	log := follow.New(c.config.Log, c.config.Report)
	defer log.Close()
	log.DisableSync()
	log.Seek(position)
	before, err := c.measure(ctx, log)
	if err != nil {
		return err
	}
	seconds, err := before.seconds(log)
	if err != nil {
		return err
	}
	var text metrics.Text
	label := metrics.Label("state", c.config.State)
	text.AddLabeled("mbus_consumer_lag_messages", label,
		"Messages in the log that the consumer has not delivered.", before.messages)
	text.AddLabeled("mbus_consumer_lag_bytes", label,
		"Bytes of data in these messages.", before.bytes)
	text.AddLabeled("mbus_consumer_lag_seconds", label,
		"Seconds since the oldest of these messages was written.", seconds)
	_, err = c.config.Output.Write(text)
	return err
}

// measure reads log from its position to its end.
func (c *Consumer) measure(ctx context.Context, log *follow.Follower) (l lag, err error) {
	end, err := log.End()
	if errors.Is(err, fs.ErrNotExist) {
		return l, fmt.Errorf("%s: names no file, and there is no rotated file beside it",
			c.config.Log)
	}
	if err != nil {
		return l, err
	}
	for line, err := range lines(ctx, log, end) {
		if err != nil {
			return l, c.hint(err)
		}
		if stamp := logline.StampOf(line); stamp != nil {
			l.last = string(stamp)
		}
		m, _ := c.parser.Parse(line) // a damaged line is no message
		if m == nil || c.window.pass() {
			continue
		}
		if l.messages == 0 {
			l.oldest = l.last
		}
		l.messages++
		l.bytes += len(m.Data)
	}
	return l, nil
}

// seconds returns how long ago the oldest message was written: the time from it to the last line
// of the log, and from that to now. Only differences of time stamps count, because they have no
// time zone, and of the file's times, which have one.
func (l lag) seconds(log *follow.Follower) (int, error) {
	if l.messages == 0 {
		return 0, nil
	}
	modified, err := log.Modified()
	if err != nil {
		return 0, err
	}
	// Stamps that only look like times, or go backwards, count as no time.
	oldest, _ := time.Parse(logline.StampLayout, l.oldest)
	last, err := time.Parse(logline.StampLayout, l.last)
	age := max(time.Since(modified), 0)
	if err == nil && !oldest.IsZero() {
		age += max(last.Sub(oldest), 0)
	}
	return int(age.Seconds()), nil
}
