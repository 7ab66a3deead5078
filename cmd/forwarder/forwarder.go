// Command forwarder carries the messages of an mbus broker's log into a stream of NATS
// JetStream (the engine), each once and in order. See forwarder -h.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"mbus/internal/shared/command"
	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// help is the answer to -h.
const help = `usage: mbus-forwarder -log FILE -state FILE -stream NAME [flags]

  -log FILE          follow this broker's log file, through rotation
  -state FILE        keep the position in this file, and continue from it
  -stream NAME       publish into the stream of this name
  -prefix PREFIX     put this prefix before each topic (default mbus.)
  -url SERVERS       connect to one of these servers, separated by commas; other users of this
                     machine can see a password in it (default nats://127.0.0.1:4222)
  -creds FILE        use the credentials in this file
  -ca FILE           trust the certificates in this file, and use TLS
  -seek PLACE        set the state to the stream's end and to this place of the log, and exit:
                     start, end, or here, which is after the last message that the stream has
  -timeout DURATION  time limit for connecting and each answer: a duration above 0 (default 30s)
  -version           print the version and exit
  -h                 print this and exit

exit status:
  0  stopped by SIGTERM, SIGINT or SIGHUP, or the state is set
  1  could not continue; one line says why, and what to do
  2  wrong arguments; one line says what would be right

examples:
  mbus-forwarder -log mbus.log -state forwarder.state -stream ORDERS
  mbus-forwarder -log mbus.log -state state -stream HOST1 -prefix mbus.host1. -url tls://nats
`

const (
	// memoryLimit and gcPercent keep resident memory under 64 MiB plus three times the longest
	// line. The rest is for the program itself and for what the runtime can't free at once.
	memoryLimit = 40 << 20
	gcPercent   = 100

	// stopPatience is how long a stop waits for an answer of the engine. Then it ends the
	// process, which loses nothing: the next start finds its place as after a kill.
	stopPatience = 3 * time.Second

	// minPause and maxPause limit the pause after a session that failed.
	minPause = time.Second
	maxPause = 30 * time.Second
)

func main() {
	debug.SetTraceback("crash") // a crash is SIGABRT, so that status 2 is wrong usage alone
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 after a signal to stop or a -seek, 1 if the
// forwarder can't continue, 2 if the arguments are wrong. arguments[0] is the path of the command.
func run(arguments []string, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // a closed standard error must not end the forwarder
	stop := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	flags := flag.NewFlagSet(command.Name(arguments[0]), flag.ContinueOnError)
	c := new(config)
	c.define(flags)
	if status, done := command.Parse(flags, help, arguments[1:], stdout, stderr); done {
		return status
	}
	if err := cmp.Or(command.Unexpected(flags, ""), c.validate()); err != nil {
		return command.UsageError(flags, err, stderr)
	}
	command.SetMemory(memoryLimit, gcPercent)
	report := func(format string, arguments ...any) {
		command.Report(stderr, flags.Name(), fmt.Sprintf(format, arguments...))
	}
	if err := forward(stop, c, stdout, report); err != nil {
		report("%v", err)
		return command.Failure
	}
	return command.Success
}

// forward forwards messages until stop ends, or sets the state if there is a -seek. Its error is
// one that an operator must correct.
func forward(
	stop context.Context, c *config, stdout io.Writer, report func(string, ...any),
) error {
	options, err := c.options()
	if err != nil {
		return err
	}
	state, err := follow.OpenState(c.state, "forwarder")
	if err != nil {
		return err
	}
	defer state.Close()
	log := follow.New(c.log, func(line string) { report("%s", line) })
	defer log.Close()
	f := &forwarder{
		config: c, report: report, options: options, log: log, state: state,
		unanswered: true, limit: maxMessages,
	}
	if c.seek != "" {
		return f.seek(stop, stdout)
	}
	if err := f.load(); err != nil {
		return err
	}
	context.AfterFunc(stop, func() {
		time.AfterFunc(stopPatience, func() { os.Exit(command.Success) })
	})
	return f.run(stop)
}

// forwarder sends the messages of a log to a stream. It works in sessions. Each session makes a
// new connection, reads the stream's end, skips the messages that the stream has, and sends the
// others, until an error ends the session.
type forwarder struct {
	config  *config
	report  func(format string, arguments ...any)
	options nats.Options
	log     *follow.Follower
	parser  logline.Parser
	state   *follow.State

	connection *nats.Conn // of this session
	end        uint64     // the last sequence of the stream when this session asked last
	maxSize    int32      // the stream's max_msg_size

	place   place // zero: there is none yet
	saved   place // the last one that this process saved
	savedAt time.Time

	// unanswered is whether this process, or the one before, has sent a batch and not received the
	// answer: the stream may have stored that batch, or may still store it.
	unanswered bool

	limit  int       // the most messages in a batch
	failed time.Time // when the outage began; zero: there is none
}

// run runs sessions until stop ends, or until an error that another session would repeat.
func (f *forwarder) run(stop context.Context) error {
	for stop.Err() == nil {
		err := f.session(stop)
		switch {
		case errors.As(err, new(awayError)):
			f.pause(stop, err)
		case stop.Err() == nil:
			return cmp.Or(err, f.save(0))
		}
	}
	return f.save(0)
}

// pause waits before the next session: for the time since the first error, between minPause
// and maxPause. It reports only the first error.
func (f *forwarder) pause(stop context.Context, err error) {
	if f.failed.IsZero() {
		f.failed = time.Now()
		f.report("%s: %v; retrying", f.config.servers, err)
	}
	select {
	case <-time.After(min(max(time.Since(f.failed), minPause), maxPause)):
	case <-stop.Done():
	}
}

// back reports the end of an outage, if there was one.
func (f *forwarder) back() {
	if !f.failed.IsZero() {
		outage := time.Since(f.failed).Round(time.Second)
		f.report("%s: back after %s", f.config.servers, outage)
		f.failed = time.Time{}
	}
}

// session connects, finds the place, and forwards until an error or the end of stop.
func (f *forwarder) session(stop context.Context) (err error) {
	if f.connection, err = f.options.Connect(); err != nil {
		return awayError{err}
	}
	defer f.connection.Close()
	if err := f.settle(stop); err != nil {
		return err
	}
	current := batch{end: f.place}
	for err == nil && stop.Err() == nil {
		err = f.read(&current, f.limit)
		switch {
		case len(current.messages) > 0: // an error can wait: the next read returns it again
			current, err = f.exchange(stop, &current)
		case err == nil && f.connection.IsClosed():
			err = f.away(nats.ErrConnectionClosed)
		case err == nil:
			f.place = current.end
			err = f.save(0)
			f.log.Wait(stop)
		}
	}
	return err
}

// settle advances the place to the stream's end. Messages that it finds in the stream end an outage
// too.
func (f *forwarder) settle(stop context.Context) error {
	before := f.place.sequence
	reached, err := f.find(stop)
	if first := f.place.sequence + 1; err == nil && first <= reached.sequence {
		f.report("stream %s has removed its messages %d to %d, which could not be "+
			"compared: they count as the log's", f.config.stream, first, reached.sequence)
		f.place = reached
	}
	if f.place.sequence > before {
		f.back()
	}
	return err
}

// exchange sends a batch, and advances the place to its end. While it waits for the answer, it
// reads the next batch, which it returns. It syncs the log before it sends the batch: otherwise a
// power loss could leave the stream with messages that the log has lost.
func (f *forwarder) exchange(stop context.Context, current *batch) (next batch, err error) {
	if err := f.log.Sync(); err != nil {
		return next, err
	}
	answer := make(chan error, 1)
	go func() { answer <- f.send(current) }()
	next.end = current.end
	if current.size < 2*fullSize { // otherwise there is no memory for both
		f.read(&next, f.limit) // the session's next read returns an error again
	}
	saveErr := f.save(saveInterval)
	if err = <-answer; err != nil {
		err = f.sendFailed(stop, current, err)
		return batch{end: f.place}, cmp.Or(saveErr, err)
	}
	f.unanswered = false // an older unanswered batch can't be stored any more
	f.limit = min(f.limit+f.limit/10+1, maxMessages)
	f.place = current.end
	f.back()
	return next, saveErr
}
