// Package consumer delivers the messages of a broker's log, each with the bytes that
// were sent, to a stream or to a command, at least once.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// saveInterval is how often the position is saved while messages are delivered to a
// stream.
const saveInterval = time.Second

// The formats of messages in a stream.
const (
	Lines = "lines" // the data and a line feed
	NUL   = "nul"   // the data and a zero byte
	Raw   = "raw"   // the data alone
	JSON  = "json"  // one object a line: time, topic, and data, or base64 if that is not UTF-8
)

// Where to begin in a log.
const (
	Start = "start" // with the first line of its oldest file
	End   = "end"   // after its last line
)

// Config is what a consumer is to do. Its zero value delivers all of Input.
type Config struct {
	Log     string        // the log's file, which is followed; empty: Input is read to its end
	State   string        // the file that keeps the position in Log; empty: none
	Topics  []string      // whose messages are delivered; empty: all
	Format  string        // of Output; empty: Lines
	From    string        // Start or End, without a position, or with one that is lost; or empty
	ToEnd   bool          // stop at the end that Log has at the start
	Count   int           // stop after so many messages; 0: never
	Retry   time.Duration // how long Command is tried again for one message
	Command []string      // is run for each message; empty: messages go to Output

	Input  io.Reader
	Output *os.File // the standard output of commands, too
	Errors *os.File // the standard error of commands

	// Report takes a line about what a person should know, without its end.
	Report func(line string)
}

// Validate returns nil if a consumer can be made of config. Otherwise its error names
// the flag, its value and what would be right.
func (config *Config) Validate() error {
	for _, topic := range config.Topics {
		if err := apiv1.CheckTopic([]byte(topic)); err != nil {
			return fmt.Errorf("-topic %w", err)
		}
	}
	formats, froms := []string{"", Lines, NUL, Raw, JSON}, []string{"", Start, End}
	switch {
	case config.State != "" && config.Log == "":
		return errors.New("-state without -log: must be with the log that the position is in")
	case config.State != "" && follow.Belongs(config.State, config.Log):
		return fmt.Errorf("-state %s: must be another file than the log and its rotated files",
			config.State)
	case config.From != "" && config.Log == "":
		return errors.New("-from without -log: standard input is read from where it is")
	case !slices.Contains(formats, config.Format):
		return fmt.Errorf("-format %q: must be lines, nul, raw or json", config.Format)
	case !slices.Contains(froms, config.From):
		return fmt.Errorf("-from %q: must be start or end", config.From)
	case len(config.Command) > 0 && config.Format != "":
		return errors.New("-format with a command: must be one of them, a command gets the data alone")
	case len(config.Command) == 0 && config.Retry != 0:
		return errors.New("-retry without a command: must be with one, after --")
	case config.Retry < 0:
		return fmt.Errorf("-retry %s: must be a duration of at least 0, such as 30s", config.Retry)
	case config.Count < 0:
		return fmt.Errorf("-count %d: must be at least 1", config.Count)
	}
	return nil
}

// source is where lines come from: a log or a stream. Next returns nil if there is no
// line at present, and Wait waits until there may be one.
type source interface {
	Next() (line []byte, err error)
	Wait(ctx context.Context)
}

// delivery is where messages go: a stream or a command. After an error of deliver, flush
// returns one too, so that no position after that message is saved.
type delivery interface {
	deliver(ctx context.Context, message *message) error
	// flush returns when what was delivered has been written, and if it is to be
	// durable can't be lost.
	flush(durable bool) error
}

// Consumer delivers messages as its Config says.
type Consumer struct {
	config *Config
	wanted map[string]bool // topics as the log has them; empty: all
	source source
	log    *follow.Follower // the source, if that is a log
	end    follow.Position  // where to stop
	state  *follow.State    // or nil
	output delivery
	each   bool // the position is saved after each message

	message   message // in hand
	delivered int     // how many messages were
	moved     bool    // there are lines since the last save
}

// New returns a Consumer, or the error of Validate.
func New(config *Config) (*Consumer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	consumer := &Consumer{config: config, wanted: make(map[string]bool)}
	// A broker takes printable topics alone, so nothing else is escaped in them.
	escaped := strings.NewReplacer(`\`, `\\`, `'`, `\x27`)
	for _, topic := range config.Topics {
		consumer.wanted[escaped.Replace(topic)] = true
	}
	if len(config.Command) > 0 {
		consumer.output, consumer.each = &worker{config: config}, true
	} else {
		consumer.output = newOutput(config.Output, config.Format)
	}
	return consumer, nil
}

// Subscribe delivers messages until there are no more, as many have been delivered as
// were asked for, or ctx ends, which lets the message in hand be delivered. Then the
// position is saved. It returns nil after these, and else what could not be read,
// delivered or saved. It is to be called once.
//
// The position is saved after each message that a command took; with Output, every
// second and whenever there is nothing more to read, when what was delivered has been
// written.
func (consumer *Consumer) Subscribe(ctx context.Context) error {
	defer consumer.close()
	if err := consumer.open(); err != nil {
		return err
	}
	err := consumer.run(ctx)
	if saveErr := consumer.save(); err == nil {
		err = saveErr
	}
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// open opens what Subscribe needs and goes to the first line. It saves the position
// there, so that a state that can't be saved is reported before anything is delivered.
func (consumer *Consumer) open() (err error) {
	config := consumer.config
	if runtime.GOOS == "windows" && (config.State != "" || len(config.Command) > 0) {
		return errors.New("-state and a command are not supported on Windows")
	}
	if len(config.Command) > 0 {
		if _, err := exec.LookPath(config.Command[0]); err != nil {
			return fmt.Errorf("the command can't be run: %w", err)
		}
	}
	if config.Log == "" {
		consumer.source = follow.NewReader(config.Input)
		return nil
	}
	consumer.log = follow.New(config.Log)
	consumer.source = consumer.log
	if config.State != "" {
		if consumer.state, err = follow.OpenState(config.State, "consumer"); err != nil {
			return err
		}
	}
	if err := consumer.begin(); err != nil {
		return err
	}
	consumer.moved = true
	return consumer.save()
}

// close closes what open opened.
func (consumer *Consumer) close() {
	if consumer.log != nil {
		consumer.log.Close()
	}
	if consumer.state != nil {
		consumer.state.Close()
	}
}

// begin goes to where the state says, or -from.
func (consumer *Consumer) begin() error {
	if err := consumer.findEnd(); err != nil {
		return err
	}
	if consumer.state == nil {
		return consumer.seek()
	}
	position, _, found := consumer.state.Load()
	if !found {
		return consumer.seek()
	}
	err := consumer.log.Seek(position)
	if errors.Is(err, follow.ErrLost) {
		return consumer.restart(err)
	}
	return err
}

// findEnd finds where to stop, if that is the end of the log.
func (consumer *Consumer) findEnd() (err error) {
	if !consumer.config.ToEnd {
		return nil
	}
	consumer.end, err = consumer.log.End()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: names no file, and there is no rotated file beside it: "+
			"with -end the log must exist", consumer.config.Log)
	}
	return err
}

// seek goes to where -from says.
func (consumer *Consumer) seek() error {
	if consumer.config.From == End {
		return consumer.log.SeekEnd()
	}
	return consumer.log.Seek(follow.Position{})
}

// restart goes on where -from says after the position was lost.
func (consumer *Consumer) restart(lost error) error {
	if consumer.config.From == "" {
		return fmt.Errorf("%w: -from start or -from end must say where to go on", lost)
	}
	consumer.config.Report(fmt.Sprintf("%v: going on from the %s", lost, consumer.config.From))
	return consumer.seek()
}

// run delivers messages until Subscribe is to end, but for a last save.
func (consumer *Consumer) run(ctx context.Context) error {
	var isDue atomic.Bool // cheaper to look at than a ticker's channel
	timer := time.AfterFunc(saveInterval, func() { isDue.Store(true) })
	defer timer.Stop()
	for ctx.Err() == nil && !consumer.isDone() {
		line, err := consumer.source.Next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, follow.ErrLost):
			err = consumer.restart(err)
		case err != nil:
		case line == nil:
			err = consumer.pause(ctx)
		default:
			err = consumer.take(ctx, line)
		}
		if err == nil && isDue.CompareAndSwap(true, false) {
			err = consumer.save()
			timer.Reset(saveInterval)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isDone reports whether everything that was asked for has been delivered.
func (consumer *Consumer) isDone() bool {
	config := consumer.config
	return config.Count > 0 && consumer.delivered == config.Count ||
		config.ToEnd && consumer.log != nil && consumer.log.At(consumer.end)
}

// pause saves, and waits until there may be another line.
func (consumer *Consumer) pause(ctx context.Context) error {
	if err := consumer.save(); err != nil {
		return err
	}
	if consumer.log != nil { // the file that had the end may be gone
		if err := consumer.findEnd(); err != nil {
			return err
		}
	}
	consumer.source.Wait(ctx)
	return nil
}

// save saves the position after the last line, when everything up to it has been
// delivered, and the log up to there can't be lost any more.
func (consumer *Consumer) save() error {
	isDue := consumer.state != nil && consumer.moved
	if err := consumer.output.flush(isDue); err != nil || !isDue {
		return err
	}
	if err := consumer.log.Sync(); err != nil {
		return err
	}
	if err := consumer.state.Save(consumer.log.Position(), ""); err != nil {
		return err
	}
	consumer.moved = false
	return nil
}

// take delivers the message of a line, if it has one that is wanted.
func (consumer *Consumer) take(ctx context.Context, line []byte) error {
	consumer.moved = true
	parts, found := logline.Parse(line)
	if !found {
		if logline.IsTorn(line) {
			consumer.skip(line, "it is torn")
		}
		return nil
	}
	if len(consumer.wanted) > 0 && !consumer.wanted[string(parts.Topic)] {
		return nil
	}
	if err := consumer.message.unescape(parts); err != nil {
		consumer.skip(line, err.Error())
		return nil
	}
	if err := consumer.output.deliver(ctx, &consumer.message); err != nil {
		return err
	}
	consumer.delivered++
	if consumer.each {
		return consumer.save()
	}
	return nil
}

// skip reports a line that is not delivered, up to where its data can begin: that may have
// been changed.
func (consumer *Consumer) skip(line []byte, why string) {
	const shown = len("2024/06/02 10:39:55 Received new message from topic '': '")
	consumer.config.Report(fmt.Sprintf("skipped a line: %s: %q", why, line[:min(len(line), shown)]))
}
