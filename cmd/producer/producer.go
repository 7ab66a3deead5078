// Command producer sends messages to an mbus broker and reports, by its exit
// status, whether they were accepted. See producer -h.
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

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/command"
)

// help is the answer to -h.
const help = `usage: mbus-producer -topic TOPIC [-message TEXT | -lines] | -ping [flags]

  -topic TOPIC       send to this topic, 1 to 255 bytes of printable text
  -message TEXT      send this text, which may be empty; do not read standard input
  -lines             send each line of standard input as a message; without it and -message, all of
                     standard input is one message
  -host HOST         the broker's host, or the path of its Unix socket, which has a slash
                     (default 127.0.0.1)
  -port PORT         the broker's port (default 9990)
  -retry DURATION    for up to this duration, retry what was certainly not accepted (default 0s)
  -at-least-once     with -retry, retry also what may have been accepted; the broker may have it
                     as often as it was tried
  -timeout DURATION  time limit per attempt, from connecting to the reply: a duration above 0
                     (default 30s)
  -ping              send nothing, and check that the broker answers; with -retry, wait until it
                     does
  -version           print the version and exit
  -h                 print this and exit

exit status:
  0  accepted; with -ping: the broker answers
  1  not accepted, or with -lines not all; one line says why
  2  wrong arguments; one line says what would be right
  3  unknown: all was sent, but no reply came; sending it again may duplicate it

examples:
  mbus-producer -topic orders -message "look ma! a new order"
  tail -n +1 -F app.log | mbus-producer -topic app -lines -retry 1h
`

// outcomeUnknown is the exit status if messages may have been accepted, but no reply came.
const outcomeUnknown = 3

const (
	// memoryLimit is the memory limit of the Go runtime, in bytes. A stream of short lines
	// needs less. Near the limit, garbage is collected more often.
	memoryLimit = 64 << 20

	// gcPercent is the garbage collection target. More than the runtime's 100 saves time
	// and costs memory, which memoryLimit bounds.
	gcPercent = 400
)

func main() {
	debug.SetTraceback("crash") // a crash is SIGABRT, so that status 2 is wrong usage alone
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if all messages were accepted, or the
// broker answered a -ping, 1 if not, 2 if the arguments are wrong, 3 if the outcome is unknown.
// arguments[0] is the path of the command.
func run(arguments []string, stdin *os.File, stdout io.Writer, stderr *os.File) int {
	signal.Ignore(syscall.SIGPIPE) // a closed standard error must not change the status
	task, status, done := parse(arguments, stdout, stderr)
	if done {
		return status
	}
	command.SetMemory(memoryLimit, gcPercent)
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGHUP}
	if task.lines { // otherwise SIGINT must end a shell's loop around the producer
		signals = append(signals, syscall.SIGINT)
	}
	err := task.send(command.SignalContext(signals...), stdin, stderr)
	switch {
	case errors.Is(err, producer.ErrUnknown):
		return outcomeUnknown
	case err != nil:
		return command.Failure
	}
	return command.Success
}

// sendTask is what the command line asks for.
type sendTask struct {
	name    string // of the command
	config  *producer.ProducerConfig
	topic   string
	message *string // nil: read standard input
	lines   bool    // each line of standard input is a message
	ping    bool    // send nothing
}

// parse parses the command line. If there is nothing to send, done is true and status is the
// exit status.
func parse(arguments []string, stdout, stderr io.Writer) (task sendTask, status int, done bool) {
	task.name, task.config = command.Name(arguments[0]), producer.DefaultConfig()
	flags := task.newFlags()
	status, done = command.Parse(flags, help, arguments[1:], stdout, stderr)
	if done {
		return task, status, true
	}
	hint := ""
	if task.lines {
		hint = "-lines reads standard input, put < before a file"
	}
	err := cmp.Or(command.Unexpected(flags, hint), task.validate(),
		command.CheckPort(flags, "host", "port"))
	if err != nil {
		return task, command.UsageError(flags, err, stderr), true
	}
	return task, command.Success, false
}

// newFlags returns the flags, which set the task. Its values are the defaults.
func (t *sendTask) newFlags() *flag.FlagSet {
	flags := flag.NewFlagSet(t.name, flag.ContinueOnError)
	flags.StringVar(&t.topic, "topic", "", "")
	flags.Func("message", "", func(text string) error {
		t.message = &text
		return nil
	})
	flags.BoolVar(&t.lines, "lines", false, "")
	flags.BoolVar(&t.ping, "ping", false, "")
	flags.StringVar(&t.config.Host, "host", t.config.Host, "")
	flags.StringVar(&t.config.Port, "port", t.config.Port, "")
	command.Duration(flags, &t.config.Timeout, "timeout")
	command.Duration(flags, &t.config.Retry, "retry")
	flags.BoolVar(&t.config.AtLeastOnce, "at-least-once", false, "")
	return flags
}

// validate returns nil if the task is valid. Otherwise its error names the flag.
func (t *sendTask) validate() error {
	if t.ping {
		if t.topic != "" || t.message != nil || t.lines || t.config.AtLeastOnce {
			return errors.New("-ping: must be without -topic, -message, -lines and -at-least-once")
		}
		return t.config.Validate()
	}
	if t.topic == "" {
		return errors.New("-topic is missing or empty: must be the topic to send to")
	}
	if err := apiv1.CheckTopic([]byte(t.topic)); err != nil {
		return fmt.Errorf("-topic %w", err)
	}
	if t.message != nil && t.lines {
		return errors.New("-message and -lines: must be one of them")
	}
	return t.config.Validate()
}

// send sends what the task names and prints the error, if there is one, on stderr.
func (t *sendTask) send(ctx context.Context, stdin, stderr *os.File) error {
	output := &errorOutput{name: t.name, stderr: stderr}
	t.config.Report = output.report
	p, err := producer.New(t.config)
	switch {
	case err != nil:
	case t.ping:
		err = p.Ping(ctx)
	case t.message != nil:
		message := &apiv1.Message{Topic: t.topic, Data: []byte(*t.message)}
		err = p.Send(ctx, []*apiv1.Message{message})
	case t.lines:
		return t.sendLines(ctx, p, stdin, output)
	default:
		if command.IsTerminal(stdin) {
			output.report("reading one message, up to the end of input (Ctrl-D)")
		}
		err = p.SendAll(ctx, t.topic, stdin)
	}
	if err != nil {
		output.report(err.Error())
	}
	return err
}

// sendLines is send for -lines. It prints a summary, even without an error.
func (t *sendTask) sendLines(
	ctx context.Context, p *producer.Producer, stdin *os.File, output *errorOutput,
) error {
	progress := producer.NewProgress(stdin)
	if command.IsTerminal(stdin) { // progress would get between the lines that are typed
		output.report("reading lines, each a message, up to the end of input (Ctrl-D)")
	} else if command.IsTerminal(output.stderr) {
		output.show(progress)
	}
	err := p.SendLines(ctx, t.topic, stdin, progress.Add)
	output.hide()
	summary := progress.String()
	if err != nil {
		summary += "; " + err.Error()
	}
	output.report(summary)
	return err
}

// errorOutput writes lines to standard error. If that is a terminal, it can show progress
// below them.
type errorOutput struct {
	name     string // of the command
	stderr   *os.File
	progress *producer.Progress // nil: none is shown
	stop     func()             // erases the progress
}

// show shows progress until hide is called.
func (o *errorOutput) show(progress *producer.Progress) {
	o.progress = progress
	o.stop = progress.Show(o.stderr)
}

// hide erases the progress, if it is shown.
func (o *errorOutput) hide() {
	if o.progress != nil {
		o.stop()
		o.progress = nil
	}
}

// report writes a line, above the progress if some is shown.
func (o *errorOutput) report(line string) {
	progress := o.progress
	o.hide()
	command.Report(o.stderr, o.name, line)
	if progress != nil {
		o.show(progress)
	}
}
