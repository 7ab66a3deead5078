// Package consumer delivers the messages of a broker's log to a stream or to a command. It
// delivers each message at least once, with the bytes that were sent. The packages follow and
// logline document the known limits.
package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// saveInterval is the time between two saves, except after a command that is not persistent.
// Together with the longest wait of package follow, it is a second.
const saveInterval = 800 * time.Millisecond

// kind is the word for this program in its states; see follow.OpenState.
const kind = "consumer"

// source is a log or a stream. Next returns nil if there is no line at present, and Wait waits
// until there may be one. Origin returns where the last line comes from.
type source interface {
	Next() (line []byte, err error)
	Origin() (follow.Origin, error)
	Wait(ctx context.Context)
}

// Consumer delivers messages as its Config says. It is not safe for concurrent use.
type Consumer struct {
	config *Config
	parser logline.Parser
	end    follow.Position // where to stop, with Config.ToEnd
	window *window
	output *output // nil with a command

	appended *appended // Output if it is a file that each message is in once; otherwise nil

	isDue atomic.Bool // whether a save is due; faster to read than a channel

	// The job that takes the next message holds reading. It guards parser and what follows.
	reading sync.Mutex
	source  source
	log     *follow.Follower // the source if it is a log; otherwise nil
	since   string           // no line before this time stamp is delivered; empty: no limit
	count   int              // the number of messages that were started
	ahead   bool             // whether a line was read that the window does not count
}

// New returns a Consumer, which opens nothing yet. The Consumer keeps config, which must not
// change afterwards. The error is that of config.Validate, or that of a system without states.
func New(config *Config) (*Consumer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if runtime.GOOS == "windows" && (config.State != "" || len(config.Command) > 0) {
		return nil, errors.New("-state and a command are not supported on Windows")
	}
	c := &Consumer{
		config: config,
		parser: logline.Parser{
			Topics: config.Topics,
			Sums:   len(config.Command) > 0 || config.Format == JSON, // where ids are needed
		},
		window: newWindow(config.Topics),
	}
	if len(config.Command) == 0 {
		c.output = newOutput(config.Output, config.Format)
	}
	return c, nil
}

// Subscribe delivers messages until the end that Config asks for, the end of Input, or the end
// of ctx. At the end of ctx it still delivers the messages in hand. Then it saves the position
// and returns nil. Otherwise the error says what could not be read, delivered or saved. A
// Consumer's Subscribe must be called only once.
//
// With a command, Subscribe saves the position after each message. With Output, it saves within a
// second. Whenever there is nothing more to read, it writes the messages delivered.
func (c *Consumer) Subscribe(ctx context.Context) error {
	defer c.close()
	if err := c.open(ctx); err != nil {
		if errors.Is(err, context.Cause(ctx)) {
			return nil
		}
		return err
	}
	err := c.hint(c.run(ctx))
	return cmp.Or(err, c.save())
}

// open opens the log and the state, and goes to the first line. It saves the position there,
// so that a state that can't be saved is reported before a message is delivered.
func (c *Consumer) open(ctx context.Context) (err error) {
	config := c.config
	if len(config.Command) > 0 {
		if err := checkCommand(config.Command[0]); err != nil {
			return err
		}
	}
	if config.Log == "" {
		c.source = follow.NewReader(config.Input, func(line string) {
			config.Report("standard input: " + line)
		})
		return nil
	}
	c.log = follow.New(config.Log, config.Report)
	c.source = c.log
	if err := c.begin(ctx); err != nil {
		return err
	}
	if config.State != "" && c.output != nil {
		if c.appended, err = openAppended(config.Output, c.window.output); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
	}
	c.ahead = c.since == ""
	return c.save()
}

// close closes what open has opened.
func (c *Consumer) close() {
	c.appended.close()
	if c.log != nil {
		c.log.Close()
	}
	c.window.close()
}

// begin opens the state, and goes to its position or, without one, to the place of -from. With
// -end, it finds the end of the log.
func (c *Consumer) begin(ctx context.Context) error {
	position, saved, found, err := c.window.open(c.config.State)
	switch {
	case err != nil:
	case found:
		c.window.earlier, err = c.earlier(ctx, position, saved)
	case c.config.From == End:
		position, err = endOf(c.log)
	default:
		c.since = stampOf(c.config.From)
	}
	if err != nil {
		return err
	}
	c.log.Seek(position)
	if !c.config.ToEnd {
		return nil
	}
	c.end, err = c.log.End()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: names no file, and there is no rotated file beside it: "+
			"with -end the log must exist", c.config.Log)
	}
	return err
}

// run is Subscribe without its last save.
func (c *Consumer) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for sleep(ctx, saveInterval) {
			c.isDue.Store(true)
			c.window.save() // what jobs have delivered; the next save returns the error
		}
	}()
	if c.output == nil {
		return c.work(ctx, cancel)
	}
	for {
		m, err := c.next(ctx)
		if err != nil || m.Message == nil {
			return err
		}
		if c.window.pass() {
			continue
		}
		if err := c.output.deliver(m); err != nil {
			return err
		}
		c.count++
	}
}

// next reads up to the next message that is wanted. If there is none at -end, -count, the end of
// input or the end of ctx, it returns the zero message. While there is none, and between two lines,
// next saves the position when that is due.
func (c *Consumer) next(ctx context.Context) (m message, err error) {
	for m.Message == nil && ctx.Err() == nil && !c.isDone() {
		if c.isDue.Load() {
			if err := c.save(); err != nil {
				return message{}, err
			}
			c.isDue.Store(false)
		}
		line, err := c.source.Next()
		switch {
		case err == io.EOF:
			return message{}, nil
		case err != nil:
			return message{}, err
		case line == nil:
			// The position is not saved: that would cost two syncs for each message that comes
			// alone.
			if err := c.flush(false); err != nil {
				return message{}, err
			}
			c.source.Wait(ctx)
		default:
			if m, err = c.parse(line); err != nil {
				return message{}, err
			}
		}
	}
	return m, nil
}

// isDone reports whether the consumer has reached -count or -end.
func (c *Consumer) isDone() bool {
	config := c.config
	return config.Count > 0 && c.count == config.Count ||
		config.ToEnd && c.log != nil && c.log.At(c.end)
}

// flush writes the messages delivered, unless they go to a command. If durable is true, it also
// syncs them.
func (c *Consumer) flush(durable bool) error {
	if c.output == nil {
		return nil
	}
	return c.output.flush(durable)
}

// save writes the messages delivered, makes the log durable up to the last line, and saves the
// position. If nothing was read since the last save, it only writes.
func (c *Consumer) save() error {
	changes := c.config.State != "" && c.ahead
	if err := c.flush(changes); err != nil || !changes {
		return err
	}
	return c.saveAt(c.log.Position())
}

// saveAt makes position the one in the state, unless a message before it is not delivered. It makes
// the log durable first. The output must have been flushed.
func (c *Consumer) saveAt(position follow.Position) error {
	if err := c.log.Sync(); err != nil {
		return err
	}
	now, err := c.appended.mark()
	if err != nil {
		return err
	}
	c.ahead = !c.window.reach(position, now)
	return c.window.save()
}

// parse returns the message of a line. If the line has none, or its topic is not wanted, it returns
// the zero message.
func (c *Consumer) parse(line []byte) (m message, err error) {
	if isSkipped, err := c.skip(line); isSkipped || err != nil {
		return message{}, err
	}
	c.ahead = true
	parsed, err := c.parser.Parse(line)
	if err != nil {
		c.config.Report(fmt.Sprintf("skipped a line: %v", err))
	}
	if parsed == nil || !c.parser.Sums {
		return message{Message: parsed}, nil
	}
	origin, err := c.source.Origin()
	if err != nil {
		c.ahead = false // the position after a message that is not delivered
		return message{}, err
	}
	return message{parsed, newID(origin, parsed.Checksum)}, nil
}

// skip reports whether line is before the time of -from. Before it returns false for the first
// time, it saves the position before line, if -from is a time, and cuts off the output what the
// saved position does not count.
func (c *Consumer) skip(line []byte) (isSkipped bool, err error) {
	if c.since != "" && !isSince(line, c.since) {
		return true, nil
	}
	if c.since != "" && c.config.State != "" {
		place, err := c.log.Before()
		if err == nil {
			err = c.saveAt(place)
		}
		if err != nil {
			return false, err
		}
	}
	c.since = ""
	return false, c.appended.cut(c.config.Report)
}
