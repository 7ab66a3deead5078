// Command forwarder carries the messages of an mbus broker's log into a stream of NATS
// JetStream, each once and in order. See forwarder -h.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"mbus/internal/shared/command"
	"mbus/internal/shared/follow"
)

// stopPatience is how long a forwarder that is to stop waits for an answer. It need not wait
// for longer: the state is always as it must be for the next start.
const stopPatience = 3 * time.Second

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the command, whose arguments begin with its name. It returns the exit status: 0
// after a signal to stop, 1 if it can't go on, 2 if the arguments are wrong.
func run(arguments []string, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // that nobody reads what it reports is no reason to stop
	stop := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	flags := flag.NewFlagSet(command.Name(arguments[0]), flag.ContinueOnError)
	config := new(config)
	config.define(flags)
	if status, done := command.Parse(flags, usage(), arguments[1:], stdout, stderr); done {
		return status
	}
	if err := config.validate(); err != nil {
		return command.UsageError(flags, err, stderr)
	}
	debug.SetGCPercent(10) // the buffers of a long line are large
	context.AfterFunc(stop, func() {
		time.AfterFunc(stopPatience, func() { os.Exit(command.Success) })
	})
	report := func(format string, arguments ...any) {
		command.Say(stderr, flags.Name(), fmt.Sprintf(format, arguments...))
	}
	if err := forward(stop, config, report); err != nil {
		report("%v", err)
		return command.Failure
	}
	return command.Success
}

// usage returns what -h prints besides the flags.
func usage() *command.Usage {
	return &command.Usage{
		Synopsis: "-log FILE -state FILE -stream NAME [flags]",
		Order: []string{
			"log", "state", "stream", "prefix", "url", "creds", "ca", "from", "timeout",
		},
		Statuses: []string{
			"stopped by a signal",
			"it can't go on; one line says why, and what to do",
			"wrong arguments; one line says what would be right",
		},
		Examples: []string{
			"NAME -log mbus.log -state forwarder.state -stream ORDERS",
			"NAME -log mbus.log -state HOST1.state -stream HOST1 -prefix mbus.host1. -url tls://nats:4222",
		},
	}
}

// forward forwards until stop ends, or until something is wrong that an operator must know.
func forward(stop context.Context, config *config, report func(string, ...any)) error {
	client, err := config.client()
	if err != nil {
		return err
	}
	state, err := follow.OpenState(config.state, "forwarder")
	if err != nil {
		return err
	}
	defer state.Close()
	log := follow.New(config.log)
	defer log.Close()
	forwarder := &forwarder{
		config: config, report: report, client: client, log: log, state: state, limit: maxMessages,
	}
	if err := forwarder.load(); err != nil {
		return err
	}
	return forwarder.run(stop)
}
