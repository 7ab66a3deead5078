// Package consumer delivers the messages of a broker's log to a stream or to a command. It
// delivers each message at least once, with the bytes that were sent. The packages follow and
// logline document the known limits.
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
	"sync"
	"sync/atomic"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/follow"
	"mbus/internal/shared/logfile"
	"mbus/internal/shared/logline"
)

// saveInterval is the time between two saves while messages are delivered to a stream. Together
// with the longest wait of package follow, it is a second.
const saveInterval = 800 * time.Millisecond

// kind is the kind of a consumer's state.
const kind = "consumer"

// The formats of messages in a stream.
const (
	Lines = "lines" // the data and a line feed
	NUL   = "nul"   // the data and a zero byte
	Raw   = "raw"   // the data alone
	JSON  = "json"  // an object a line: time, topic, and data, or base64 of data not in UTF-8
)

// The places to begin at in a log.
const (
	Start = "start" // the first line of its oldest file
	End   = "end"   // after its last line
	Next  = "next"  // the first line that there is after a lost position; for Config.Seek only
)

// Config configures a Consumer. If only Input, Output, Errors and Report are set, the Consumer
// delivers all messages of Input to Output.
type Config struct {
	Log     string        // the path of the log to follow; empty: read Input to its end
	State   string        // the path of the file that keeps the position; empty: none
	Topics  []string      // the topics to deliver; empty: all
	Format  string        // of Output; empty: Lines
	ToEnd   bool          // whether to stop at the end that Log has at the start
	Count   int           // the number of messages after which to stop; 0: never stop
	Retry   time.Duration // for how long to retry Command for one message; 0: do not retry
	Command []string      // to run for each message; empty: write messages to Output

	Jobs       int    // how many runs of Command there are at once, up to MaxJobs; 0: one
	Persistent bool   // whether each run of Command handles many messages
	Failed     string // the topic to send messages to that Command has failed; empty: none
	Host, Port string // of the broker for Failed; empty: those of producer.DefaultConfig

	// From is Start, End or a time: the place for a consumer without a position. Empty means
	// Start. A time is the broker's local time, as 2026/11/24 10:00:00 or 2026-11-24T10:00:00. It
	// means the first line whose time stamp is that or later.
	From string

	// Seek is Start, End, Next or a time: the place to set State to. Then nothing is delivered.
	// Empty means that State is not set.
	Seek string

	// Lag is whether to write how much the consumer of State has before it. Then nothing is
	// delivered.
	Lag bool

	Input  io.Reader
	Output *os.File // also the standard output of Command
	Errors *os.File // the standard error of Command

	// Report prints a line for the user. The line has no line feed.
	Report func(line string)
}

// Validate returns nil if config is valid. Otherwise its error names a flag, its value and
// what would be right.
func (c *Config) Validate() error {
	for _, topic := range c.Topics {
		if err := apiv1.CheckTopic([]byte(topic)); err != nil {
			return fmt.Errorf("-topic %w", err)
		}
	}
	formats, froms := []string{"", Lines, NUL, Raw, JSON}, []string{"", Start, End}
	switch {
	case c.State != "" && c.Log == "":
		return errors.New("-state without -log: must be with the log that the position is in")
	case c.State != "" && logfile.Belongs(c.State, c.Log):
		return fmt.Errorf("-state %s: must be another file than the log and its rotated files",
			c.State)
	case c.From != "" && c.Log == "":
		return errors.New("-from without -log: must be with the log to begin in")
	case !slices.Contains(formats, c.Format):
		return fmt.Errorf("-format %q: must be lines, nul, raw or json", c.Format)
	case !slices.Contains(froms, c.From) && stampOf(c.From) == "":
		return fmt.Errorf("-from %q: must be start, end or a time, %s", c.From, likeTime)
	case c.Seek != "" || c.Lag:
		return c.validateAlone()
	case len(c.Command) > 0 && c.Format != "":
		return errors.New("-format with a command: must be one of them, " +
			"a command gets the data alone")
	case c.Count < 0:
		return fmt.Errorf("-count %d: must be at least 1", c.Count)
	}
	return c.validateJobs()
}

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

	since    string    // no line before this time stamp is delivered; empty: there is no limit
	appended *appended // Output if it is a file that each message is in once; otherwise nil
	excess   int64     // how many bytes of appended must be cut off before the first line

	reading sync.Mutex // held by the job that takes the next message; guards what follows
	source  source
	log     *follow.Follower // the source if it is a log; otherwise nil
	message message          // the last one that was read
	id      []byte           // of that message; a buffer
	count   int              // the number of messages that were started
	moved   bool             // whether a line was read since the last save
	isDue   atomic.Bool      // whether the next save is due; faster to read than a channel
	timer   *time.Timer      // sets isDue
}

// New returns a Consumer, which opens nothing yet. The Consumer keeps config, which must not
// change afterwards. The error is that of config.Validate.
func New(config *Config) (*Consumer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	c := &Consumer{config: config, parser: logline.Parser{
		Topics: config.Topics,
		Sums:   len(config.Command) > 0 || config.Format == JSON, // where ids are needed
	}}
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
	if err := c.open(); err != nil {
		return err
	}
	err := c.run(ctx)
	if saveErr := c.save(); err == nil {
		err = saveErr
	}
	return err
}

// open opens the log and the state, and goes to the first line. It saves the position there,
// so that a state that can't be saved is reported before a message is delivered.
func (c *Consumer) open() (err error) {
	config := c.config
	if runtime.GOOS == "windows" && (config.State != "" || len(config.Command) > 0) {
		return errors.New("-state and a command are not supported on Windows")
	}
	if len(config.Command) > 0 {
		if _, err := exec.LookPath(config.Command[0]); err != nil {
			return fmt.Errorf("the command can't be run: %w", err)
		}
		if err := checkRoom(); err != nil {
			return err
		}
	}
	var state *follow.State
	if config.State != "" {
		if state, err = follow.OpenState(config.State, kind); err != nil {
			return err
		}
	}
	c.window = newWindow(state, config.Topics)
	if config.Log == "" {
		c.source = follow.NewReader(config.Input)
		return nil
	}
	c.log = follow.New(config.Log, config.Report)
	c.source = c.log
	if err := c.begin(); err != nil {
		return err
	}
	if err := c.openOutput(); err != nil {
		return err
	}
	c.moved = c.since == ""
	return c.save()
}

// close closes the log and the state.
func (c *Consumer) close() {
	c.appended.close()
	if c.log != nil {
		c.log.Close()
	}
	if c.window != nil {
		c.window.close()
	}
}

// begin goes to the position of the state or, without one, to the place of -from. With -end, it
// finds the end of the log.
func (c *Consumer) begin() (err error) {
	position, found := c.window.load()
	if !found && c.config.From == End {
		if position, err = endOf(c.log); err != nil {
			return err
		}
	} else if !found {
		c.since = stampOf(c.config.From)
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
	c.timer = time.AfterFunc(saveInterval, func() { c.isDue.Store(true) })
	defer c.timer.Stop()
	if c.output == nil {
		return c.work(ctx)
	}
	for {
		found, err := c.next(ctx)
		if err != nil || !found {
			return err
		}
		if c.window.pass() {
			continue
		}
		if err := c.output.deliver(&c.message); err != nil {
			return err
		}
		c.count++
	}
}

// next reads up to the next message that is wanted. If there is none at -end, -count, the end of
// input or the end of ctx, found is false. While there is none, and between two lines, next saves
// the position when that is due.
func (c *Consumer) next(ctx context.Context) (found bool, err error) {
	for ctx.Err() == nil && !c.isDone() && !found && err == nil {
		if c.isDue.Load() {
			if err := c.save(); err != nil {
				return false, err
			}
			c.isDue.Store(false)
			c.timer.Reset(saveInterval)
		}
		var line []byte
		line, err = c.source.Next()
		switch {
		case err == io.EOF:
			return false, nil
		case err != nil && c.config.State != "":
			err = hint(err)
		case err != nil:
		case line == nil:
			err = c.pause(ctx)
		default:
			found, err = c.parse(line)
		}
	}
	return found, err
}

// isDone reports whether the consumer has reached -count or -end.
func (c *Consumer) isDone() bool {
	config := c.config
	return config.Count > 0 && c.count == config.Count ||
		config.ToEnd && c.log != nil && c.log.At(c.end)
}

// pause writes the messages delivered, and waits until there may be another line. It does not
// save the position: that would cost two syncs for each message that comes alone.
func (c *Consumer) pause(ctx context.Context) error {
	if err := c.flush(false); err != nil {
		return err
	}
	c.source.Wait(ctx)
	return nil
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
	isDue := c.config.State != "" && c.moved
	if err := c.flush(isDue); err != nil || !isDue {
		return err
	}
	if err := c.log.Sync(); err != nil {
		return err
	}
	mark, err := c.mark()
	if err != nil {
		return err
	}
	c.moved = !c.window.reach(c.log.Position(), mark)
	return c.window.save()
}

// parse makes the message of a line the last one that was read. If the line has none, or its topic
// is not wanted, found is false.
func (c *Consumer) parse(line []byte) (found bool, err error) {
	if skips, err := c.start(line); skips || err != nil {
		return false, err
	}
	c.moved = true
	parsed, err := c.parser.Parse(line)
	if err != nil {
		c.config.Report(fmt.Sprintf("skipped a line: %v", err))
	}
	if parsed == nil {
		return false, nil
	}
	c.message = message{Message: parsed}
	if c.parser.Sums {
		origin, err := c.source.Origin()
		if err != nil {
			c.moved = false // the position after a message that is not delivered
			return false, err
		}
		c.id = newID(c.id, origin, parsed.Checksum)
		c.message.id = string(c.id)
	}
	return true, nil
}
