package consumer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"time"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// lag is how much of the log a consumer has before it.
type lag struct {
	done            []bool // which of the next messages are delivered
	messages, bytes int
	oldest, last    string // the time stamps of the first of messages, and of the log's last line
}

// Lag writes to Output how much of the log the consumer of Config.State has before it, in the text
// format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats). It takes no
// lock, changes nothing, and syncs nothing. If there is no position, it counts the whole log. The
// error says what could not be read or written, or is the cause of ctx's end. A Consumer's Lag must
// be called only once, and without Subscribe.
func (c *Consumer) Lag(ctx context.Context) error {
	config := c.config
	if runtime.GOOS == "windows" {
		return errors.New("-state is not supported on Windows")
	}
	position, text, _, err := follow.ReadState(config.State, kind)
	if err != nil {
		return err
	}
	log := follow.New(config.Log, config.Report)
	defer log.Close()
	log.DisableSync()
	end, err := log.End()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: names no file, and there is no rotated file beside it", config.Log)
	}
	if err != nil {
		return err
	}
	log.Seek(position)
	lag := lag{done: parseNote(text).doneOf(config.Topics)}
	if err := walk(ctx, log, end, func(line []byte) (bool, error) {
		lag.add(line, &c.parser)
		return false, nil
	}); err != nil {
		return hint(err)
	}
	seconds, err := lag.seconds(log)
	if err != nil {
		return err
	}
	_, err = config.Output.WriteString(lag.format(config.State, seconds))
	return err
}

// add counts a line. A damaged one is no message.
func (l *lag) add(line []byte, parser *logline.Parser) {
	stamp := logline.StampOf(line)
	if stamp != nil {
		l.last = string(stamp)
	}
	message, _ := parser.Parse(line)
	isDone := message != nil && len(l.done) > 0 && l.done[0]
	if message != nil && len(l.done) > 0 {
		l.done = l.done[1:]
	}
	if message == nil || isDone {
		return
	}
	if l.messages == 0 {
		l.oldest = l.last
	}
	l.messages++
	l.bytes += len(message.Data)
}

// seconds returns how long ago the oldest message was written: the time from it to the last line
// of the log, and from that to now. Only differences of time stamps count, because they have no
// time zone, and of the file's times, which have one.
func (l *lag) seconds(log *follow.Follower) (int, error) {
	if l.messages == 0 {
		return 0, nil
	}
	modified, err := log.Modified()
	if err != nil {
		return 0, err
	}
	// Stamps that only look like times, or go backwards, count as no time.
	oldest, _ := time.Parse(logline.StampFormat, l.oldest+" ")
	last, err := time.Parse(logline.StampFormat, l.last+" ")
	age := max(time.Since(modified), 0)
	if err == nil && !oldest.IsZero() {
		age += max(last.Sub(oldest), 0)
	}
	return int(age.Seconds()), nil
}

// format returns the text that Lag writes. The state's path is escaped as a label.
func (l *lag) format(state string, seconds int) string {
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(
		strings.ToValidUTF8(state, "\ufffd"))
	var text strings.Builder
	for _, metric := range []struct {
		name, help string
		value      int
	}{
		{"messages", "Messages in the log that the consumer has not delivered.", l.messages},
		{"bytes", "Bytes of data in these messages.", l.bytes},
		{"seconds", "Seconds since the oldest of these messages was written.", seconds},
	} {
		name := "mbus_consumer_lag_" + metric.name
		fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s gauge\n%s{state=\"%s\"} %d\n",
			name, metric.help, name, name, escaped, metric.value)
	}
	return text.String()
}
