// Command consumer delivers the messages of an mbus broker's log to standard output or to a
// command, each with the bytes that were sent. See consumer -h.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"

	"mbus/internal/consumer"
	"mbus/internal/shared/command"
)

// help is the answer to -h.
const help = `usage: mbus-consumer [-log FILE [-state FILE]] [-topic T]... [flags] [-- COMMAND [ARG]...]

  -log FILE        follow this broker's log file, through rotation; without it, read standard input
  -topic TOPIC     deliver only this topic; repeat the flag for several topics
  -state FILE      keep the position in this file, and continue from it; needs -log
  -retry DURATION  for up to this duration, retry a command that fails (default 0s)
  -jobs NUMBER     run up to this number of commands at once, at most 64; without it, one
  -persistent      keep each command running; it reads JSON lines and answers "ok ID" to each
  -failed TOPIC    send a message that fails to this topic, and go on; needs -topic
  -host HOST       the broker for -failed, as for the producer
  -port PORT       its port
  -format FORMAT   write messages in this format: lines (which is the default), nul (a zero byte
                   after each), raw (the data alone) or json
  -from PLACE      without a position, begin at this place of the log: start (which is the default),
                   end, or a time such as 2026-11-24T10:00:00: the first line of that time or later
  -end             stop at the end that the log has now
  -count NUMBER    stop after this number of messages
  -lag             deliver nothing; print how many messages are in the log after the position in
                   -state, how many bytes, and how old the oldest is, in the format of Prometheus
  -seek PLACE      deliver nothing; set the position in -state to this place of the log: start, end,
                   a time as for -from, or next, the first line that there is after a lost position
  -version         print the version and exit
  -h               print this and exit

exit status:
  0  ended as it was asked to
  1  something could not be read, delivered or saved; one line says why
  2  wrong arguments; one line says what would be right

examples:
  mbus-consumer -log mbus.log -topic orders
  mbus-consumer -log mbus.log -state orders.state -topic orders -retry 1m -- ./handle-order
  mbus-consumer -log mbus.log -state orders.state -topic orders -lag
`

func main() {
	debug.SetTraceback("crash") // a crash is SIGABRT, so that status 2 is wrong usage alone
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if the consumer ended as it was asked to, 1
// if something could not be read, delivered or saved, 2 if the arguments are wrong.
// arguments[0] is the path of the command.
func run(arguments []string, stdin, stdout, stderr *os.File) int {
	// While SIGPIPE is caught, writing to a closed pipe is an error. The signal must not be
	// ignored: commands would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	name := command.Name(arguments[0])
	report := func(line string) { command.Report(stderr, name, line) }
	config := &consumer.Config{Input: stdin, Output: stdout, Errors: stderr, Report: report}
	c, status, done := parse(name, arguments[1:], config)
	if done {
		return status
	}
	do := c.Subscribe
	switch {
	case config.Seek != "":
		do = c.Seek
	case config.Lag:
		do = c.Lag
	}
	if config.Log == "" && command.IsTerminal(stdin) {
		report("reading a broker's log, up to the end of input (Ctrl-D)")
	}
	if len(config.Command) == 0 && config.Seek == "" && command.IsClosed(stdout) {
		report("standard output is closed (or is " + os.DevNull +
			", opened for reading too): must be open for writing")
		return command.Failure
	}
	err := do(ctx)
	if err != nil && !errors.Is(err, syscall.EPIPE) { // for example, head has ended
		report(err.Error())
	}
	if err != nil {
		return command.Failure
	}
	return command.Success
}

// parse parses the arguments into config, and returns a consumer with it. If the command is to end
// at once, done is true, and status is the exit status.
func parse(name string, arguments []string, config *consumer.Config) (
	c *consumer.Consumer, status int, done bool,
) {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	define(flags, config)
	var err error
	if at := slices.Index(arguments, "--"); at >= 0 {
		if config.Command = arguments[at+1:]; len(config.Command) == 0 {
			err = errors.New("-- without a command: must be with one after it")
		}
		arguments = arguments[:at]
	}
	status, done = command.Parse(flags, help, arguments, config.Output, config.Errors)
	if done {
		return nil, status, true
	}
	unexpected := command.Unexpected(flags, "a command comes after --, a log after -log")
	err = cmp.Or(unexpected, err, command.CheckPort(flags, "host", "port"))
	if err == nil {
		c, err = consumer.New(config)
	}
	if err != nil {
		return nil, command.UsageError(flags, err, config.Errors), true
	}
	return c, command.Success, false
}

// define adds the command's flags. They set config.
func define(flags *flag.FlagSet, config *consumer.Config) {
	command.Text(flags, &config.Log, "log", "a file")
	command.Text(flags, &config.State, "state", "a file")
	flags.Func("topic", "", func(text string) error {
		config.Topics = append(config.Topics, text)
		return nil
	})
	command.Text(flags, &config.Format, "format", "lines, nul, raw or json")
	command.Text(flags, &config.From, "from", "start, end or a time")
	command.Text(flags, &config.Seek, "seek", "start, end, next or a time")
	flags.BoolVar(&config.Lag, "lag", false, "")
	flags.BoolVar(&config.ToEnd, "end", false, "")
	number(flags, &config.Count, "count", "messages", math.MaxInt)
	command.Duration(flags, &config.Retry, "retry")
	number(flags, &config.Jobs, "jobs", "jobs", consumer.MaxJobs)
	flags.BoolVar(&config.Persistent, "persistent", false, "")
	command.Text(flags, &config.Failed, "failed", "a topic")
	command.Text(flags, &config.Host, "host", "a host")
	command.Text(flags, &config.Port, "port", "a port")
}

// number adds a flag for a number of things, from 1 to most.
func number(flags *flag.FlagSet, target *int, name, things string, most int) {
	flags.Func(name, "", func(text string) (err error) {
		if *target, err = strconv.Atoi(text); err != nil || *target < 1 || *target > most {
			return fmt.Errorf("must be a number of %s, from 1 to %d", things, most)
		}
		return nil
	})
}
