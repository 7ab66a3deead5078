package consumer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/logfile"
	"mbus/internal/shared/logline"
)

// MaxJobs is the largest number of jobs.
const MaxJobs = 64

// likeTime says in errors what a time is like.
const likeTime = "such as '2026/11/24 10:00:00' or 2026-11-24T10:00:00"

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

// Validate returns nil if the configuration is valid. Otherwise its error names a flag, its value
// and what would be right.
func (c *Config) Validate() error {
	for _, topic := range c.Topics {
		if err := apiv1.CheckTopic([]byte(topic)); err != nil {
			return fmt.Errorf("-topic %w", err)
		}
	}
	switch {
	case c.State != "" && c.Log == "":
		return errors.New("-state without -log: must be with the log that the position is in")
	case c.State != "" && logfile.Belongs(c.State, c.Log):
		return fmt.Errorf("-state %s: must be another file than the log and its rotated files",
			c.State)
	case c.From != "" && c.Log == "":
		return errors.New("-from without -log: must be with the log to begin in")
	case !slices.Contains([]string{"", Lines, NUL, Raw, JSON}, c.Format):
		return fmt.Errorf("-format %q: must be lines, nul, raw or json", c.Format)
	case !isPlace(c.From, "", Start, End):
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

// validateAlone is Validate for the flags that deliver nothing: -seek and -lag.
func (c *Config) validateAlone() error {
	hasFiles := c.Log != "" && c.State != ""
	delivers := len(c.Command) > 0 || c.Format != "" || c.From != "" ||
		c.ToEnd || c.Count != 0 || c.Retry != 0 || c.Jobs != 0 ||
		c.Persistent || c.Failed+c.Host+c.Port != ""
	switch {
	case !isPlace(c.Seek, "", Start, End, Next):
		return fmt.Errorf("-seek %q: must be start, end, next or a time, %s", c.Seek, likeTime)
	case c.Lag && c.Seek != "":
		return errors.New("-lag and -seek: must be one of them")
	case c.Lag && !hasFiles:
		return errors.New("-lag needs -log and -state: the log and the state to compare")
	case !hasFiles:
		return errors.New("-seek needs -log and -state: the log and the state to set")
	case c.Lag && delivers:
		return errors.New("-lag delivers nothing: must be with -log, -state and -topic alone")
	case c.Seek != "" && (delivers || len(c.Topics) > 0):
		return errors.New("-seek delivers nothing: must be with -log and -state alone")
	}
	return nil
}

// validateJobs is the part of Validate about the command.
func (c *Config) validateJobs() error {
	name := ""
	switch {
	case c.Retry != 0:
		name = "-retry"
	case c.Jobs != 0:
		name = "-jobs"
	case c.Persistent:
		name = "-persistent"
	case c.Failed != "":
		name = "-failed"
	}
	switch {
	case name != "" && len(c.Command) == 0:
		return fmt.Errorf("%s without a command: must be with one, after --", name)
	case c.Retry < 0:
		return fmt.Errorf("-retry %s: must be a duration of at least 0, such as 30s", c.Retry)
	case c.Jobs < 0 || c.Jobs > MaxJobs:
		return fmt.Errorf("-jobs %d: must be a number from 1 to %d", c.Jobs, MaxJobs)
	case c.Failed == "" && c.Host+c.Port != "":
		return errors.New("-host or -port without -failed: must be with the topic to send to")
	case c.Failed == "":
		return nil
	case len(c.Topics) == 0 || slices.Contains(c.Topics, c.Failed):
		return fmt.Errorf("-failed %s: must be with -topic, and another topic than it delivers",
			c.Failed)
	}
	if err := apiv1.CheckTopic([]byte(c.Failed)); err != nil {
		return fmt.Errorf("-failed %w", err)
	}
	return c.producerConfig().Validate()
}

// isPlace reports whether text is one of words or a time.
func isPlace(text string, words ...string) bool {
	return slices.Contains(words, text) || stampOf(text) != ""
}

// stampOf returns the time that text names as the time stamp of a line. If text is not a time, it
// returns nothing.
func stampOf(text string) string {
	for _, layout := range []string{logline.StampLayout, "2006-01-02T15:04:05"} {
		when, err := time.Parse(layout, text)
		if err == nil && when.Format(layout) == text {
			return when.Format(logline.StampLayout)
		}
	}
	return ""
}
