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
	// memoryLimit and gcPercent keep resident memory under 64 MiB and three times the longest
	// line. The rest is for the program itself and for what the runtime can't free at once.
	memoryLimit = 40 << 20
	gcPercent   = 100

	// stopPatience is how long a stop waits for an answer of the engine. Then it ends the
	// process, which loses nothing: the next start finds its place in the same way as after a
	// kill.
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
	config := new(config)
	config.define(flags)
	if status, done := command.Parse(flags, help, arguments[1:], stdout, stderr); done {
		return status
	}
	if err := cmp.Or(command.Unexpected(flags, ""), config.validate()); err != nil {
		return command.UsageError(flags, err, stderr)
	}
	command.SetMemory(memoryLimit, gcPercent)
	report := func(format string, arguments ...any) {
		command.Say(stderr, flags.Name(), fmt.Sprintf(format, arguments...))
	}
	if err := forward(stop, config, stdout, report); err != nil {
		report("%v", err)
		return command.Failure
	}
	return command.Success
}

// forward forwards messages until stop ends, or sets the state if there is a -seek. Its error is
// one that an operator must correct.
func forward(
	stop context.Context, config *config, stdout io.Writer, report func(string, ...any),
) error {
	client, err := config.client()
	if err != nil {
		return err
	}
	state, err := follow.OpenState(config.state, "forwarder")
	if err != nil {
		return err
	}
	defer state.Close()
	log := follow.New(config.log, func(line string) { report("%s", line) })
	defer log.Close()
	forwarder := &forwarder{
		config: config, report: report, client: client, log: log, state: state,
		unanswered: true, limit: maxMessages,
	}
	if config.seek != "" {
		return forwarder.seek(stop, stdout)
	}
	if err := forwarder.load(); err != nil {
		return err
	}
	context.AfterFunc(stop, func() {
		time.AfterFunc(stopPatience, func() { os.Exit(command.Success) })
	})
	return forwarder.run(stop)
}

// forwarder sends the messages of a log to a stream. It works in sessions. Each session makes a
// new connection, reads the stream's end, skips the messages that the stream has, and sends the
// others until an error ends the session.
type forwarder struct {
	config *config
	report func(format string, arguments ...any)
	client nats.Options
	log    *follow.Follower
	parser logline.Parser
	state  *follow.State

	connection *nats.Conn // of this session
	end        uint64     // the last sequence of the stream when this session asked last
	maxSize    int32      // the stream's max_msg_size

	place   place // its zero value: there is none yet
	saved   place // the last one that this process saved
	savedAt time.Time

	unanswered bool // the stream may have, or still store, messages of the log after the place
	limit      int  // messages in one batch, at most

	failed time.Time // the first error since the place has advanced; zero: none
}

// run runs sessions until stop ends, or until an error that another session would repeat.
func (forwarder *forwarder) run(stop context.Context) error {
	for stop.Err() == nil {
		err := forwarder.session(stop)
		switch {
		case errors.As(err, new(awayError)):
			forwarder.pause(stop, err)
		case stop.Err() == nil:
			return cmp.Or(err, forwarder.save(0))
		}
	}
	return forwarder.save(0)
}

// pause waits before the next session: for the time since the first error, between minPause
// and maxPause. It reports only the first error.
func (forwarder *forwarder) pause(stop context.Context, err error) {
	if forwarder.failed.IsZero() {
		forwarder.failed = time.Now()
		forwarder.report("%s: %v; retrying", forwarder.config.servers, err)
	}
	select {
	case <-time.After(min(max(time.Since(forwarder.failed), minPause), maxPause)):
	case <-stop.Done():
	}
}

// back reports the end of an outage, if there was one.
func (forwarder *forwarder) back() {
	if !forwarder.failed.IsZero() {
		forwarder.report("%s: back after %s",
			forwarder.config.servers, time.Since(forwarder.failed).Round(time.Second))
		forwarder.failed = time.Time{}
	}
}

// session connects, finds the place, and forwards until an error or the end of stop.
func (forwarder *forwarder) session(stop context.Context) (err error) {
	if forwarder.connection, err = forwarder.client.Connect(); err != nil {
		return awayError{err}
	}
	defer forwarder.connection.Close()
	if err := forwarder.settle(stop); err != nil {
		return err
	}
	current := batch{end: forwarder.place}
	for err == nil && stop.Err() == nil {
		err = forwarder.read(&current, forwarder.limit)
		switch {
		case len(current.messages) > 0: // an error can wait: the next read returns it again
			current, err = forwarder.exchange(stop, &current)
		case err == nil && forwarder.connection.IsClosed():
			err = forwarder.away(nats.ErrConnectionClosed)
		case err == nil:
			forwarder.place = current.end
			err = forwarder.save(0)
			forwarder.log.Wait(stop)
		}
	}
	return err
}

// settle moves the place to the first message that the stream does not have. Messages that it finds
// in the stream end an outage too.
func (forwarder *forwarder) settle(stop context.Context) error {
	before := forwarder.place.sequence
	reached, err := forwarder.find(stop)
	if first := forwarder.place.sequence + 1; err == nil && first <= reached.sequence {
		forwarder.report("stream %s has removed its messages %d to %d, which could not be "+
			"compared: they count as the log's", forwarder.config.stream, first, reached.sequence)
		forwarder.place = reached
	}
	if forwarder.place.sequence > before {
		forwarder.back()
	}
	return err
}

// exchange sends a batch, and moves the place to its end. While it waits for the answer, it reads
// the next batch, which it returns. It syncs the log before it sends the batch: otherwise a power
// loss could leave the stream with messages that the log has lost.
func (forwarder *forwarder) exchange(
	stop context.Context, current *batch,
) (next batch, err error) {
	if err := forwarder.log.Sync(); err != nil {
		return next, err
	}
	answer := make(chan error, 1)
	go func() { answer <- forwarder.send(current) }()
	next.end = current.end
	if current.size < 2*fullSize { // otherwise there is no memory for both
		forwarder.read(&next, forwarder.limit) // the session's next read returns an error again
	}
	saveErr := forwarder.save(saveInterval)
	if err = <-answer; err != nil {
		err = forwarder.refused(stop, current, err)
		return batch{end: forwarder.place}, cmp.Or(saveErr, err)
	}
	forwarder.unanswered = false // an older unanswered batch can't be stored any more
	forwarder.limit = min(forwarder.limit+forwarder.limit/10+1, maxMessages)
	forwarder.place = current.end
	forwarder.back()
	return next, saveErr
}
