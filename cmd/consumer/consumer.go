// Command consumer delivers the messages in an mbus broker's log, each with the bytes
// that were sent, to standard output or to a command. See consumer -h.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"mbus/internal/consumer"
	"mbus/internal/shared/command"
)

const name = "consumer"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if it ended as it was asked to, 1
// if something could not be read, delivered or saved, 2 if the arguments are wrong.
func run(arguments []string, stdin, stdout, stderr *os.File) int {
	// Caught, a closed pipe is a write error. Ignored, it would be for commands too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	report := func(line string) { command.Say(stderr, name, line) }
	config := &consumer.Config{Input: stdin, Output: stdout, Errors: stderr, Report: report}
	define(flags, config)
	var err error
	if at := slices.Index(arguments, "--"); at >= 0 {
		if config.Command = arguments[at+1:]; len(config.Command) == 0 {
			err = errors.New("-- without a command: must be with one after it")
		}
		arguments = arguments[:at]
	}
	const synopsis = "[-log FILE [-state FILE]] [-topic T]... [flags] [-- COMMAND [ARG]...]"
	if status, done := command.Parse(flags, synopsis, arguments, stdout, stderr); done {
		return status
	}
	flags.Visit(func(set *flag.Flag) {
		if (set.Name == "log" || set.Name == "state") && set.Value.String() == "" {
			err = fmt.Errorf("-%s is empty: must be a file", set.Name)
		}
	})
	bus, wrong := consumer.New(config)
	if err == nil {
		err = wrong
	}
	if err != nil {
		return command.UsageError(flags, err, stderr)
	}

	if config.Log == "" && command.IsTerminal(stdin) {
		report("reading a broker's log, up to the end of input (Ctrl-D)")
	}
	err = bus.Subscribe(ctx)
	if err != nil && !errors.Is(err, syscall.EPIPE) { // who closed the pipe has had enough
		report(err.Error())
	}
	if err != nil {
		return command.Failure
	}
	return command.Success
}

// define adds the command's flags.
func define(flags *flag.FlagSet, config *consumer.Config) {
	flags.StringVar(&config.Log, "log", "",
		"follow this broker's log `file`, through rotation; without it, read standard input")
	flags.StringVar(&config.State, "state", "",
		"keep the position in this `file`, and go on from there")
	flags.Func("topic", "deliver this `topic`, and others given in the same way; without it, all",
		func(text string) error {
			config.Topics = append(config.Topics, text)
			return nil
		})
	flags.StringVar(&config.Format, "format", "",
		"write messages as `lines`, nul (a zero byte after each), raw, or json (default lines)")
	flags.StringVar(&config.From, "from", "",
		"begin at the log's `start` or end, where there is no position (default start)")
	flags.BoolVar(&config.ToEnd, "end", false, "stop at the end that the log has at the start")
	flags.Func("count", "stop after this `number` of messages", func(text string) (err error) {
		if config.Count, err = strconv.Atoi(text); err != nil || config.Count < 1 {
			return errors.New("must be a number of messages, at least 1")
		}
		return nil
	})
	command.Duration(flags, &config.Retry, "retry",
		"run a command that fails again for this `duration`")
}
