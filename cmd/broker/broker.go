// Command broker is the mbus daemon. It receives messages from producers and drains them
// into its log, a file or standard error. See broker -h.
package main

import (
	"context"
	"flag"
	"io"
	"os"
	"os/signal"
	"syscall"

	"mbus/internal/broker"
	"mbus/internal/shared/command"
)

// gcPercent is the garbage collection target. A higher one than the runtime's 100 saves time
// and costs memory. BrokerConfig.MemoryLimit bounds the memory.
const gcPercent = 200

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if the broker stopped and wrote every
// message, 1 if it could not start or left a message unwritten, 2 if the arguments are wrong.
// arguments[0] is the path of the command.
func run(arguments []string, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // a closed log is a write error, which the broker handles
	config := broker.DefaultConfig()
	config.Log = stderr
	flags := newFlags(command.Name(arguments[0]), config)
	if status, done := command.Parse(flags, usage(), arguments[1:], stdout, stderr); done {
		return status
	}
	if err := config.Validate(); err != nil {
		return command.UsageError(flags, err, stderr)
	}
	stopping := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	countRequests := make(chan os.Signal, 1)
	notifyCounts(countRequests)
	command.SetMemory(config.MemoryLimit(), gcPercent)
	bus, err := broker.New(config)
	if err != nil {
		command.Say(stderr, flags.Name(), err.Error())
		return command.Failure
	}
	context.AfterFunc(stopping, func() { bus.Stop(command.SignalName(stopping)) })
	go func() {
		for range countRequests {
			bus.LogCounts()
		}
	}()
	if err := bus.ProducerListen(); err != nil {
		command.Say(stderr, flags.Name(), err.Error())
		return command.Failure
	}
	return command.Success
}

// usage returns the text that -h prints besides the flags.
func usage() *command.Usage {
	return &command.Usage{
		Synopsis: "[flags]",
		Order: []string{
			"log", "interval", "sync", "phost", "pport", "timeout", "max-payload", "max-queued",
		},
		Statuses: []string{
			"stopped by SIGTERM, SIGINT or SIGHUP, and every message was written",
			"could not start, or left messages unwritten; one line says why",
			"wrong arguments; one line says what would be right",
		},
		Examples: []string{
			"NAME -log mbus.log",
			"NAME -log mbus.log -interval 0 -sync    # accepted means on disk",
		},
		Confused: map[string]string{"host": "phost", "port": "pport"},
	}
}

// newFlags returns the broker's flags. They set config, whose values are their defaults.
func newFlags(name string, config *broker.BrokerConfig) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.StringVar(&config.ProducerHost, "phost", config.ProducerHost,
		"listen for producers on this `host`")
	flags.StringVar(&config.ProducerPort, "pport", config.ProducerPort,
		"listen for producers on this `port`; 0: a free one")
	command.Duration(flags, &config.Interval, "interval",
		"drain the queues into the log every `duration`; 0: before each reply")
	command.Duration(flags, &config.Timeout, "timeout",
		"time limit per connection, to receive its payload and queue it: a `duration` above 0")
	command.Size(flags, &config.MaxPayload, "max-payload",
		"largest payload accepted, in `bytes`, or with KiB, MiB or GiB")
	command.Size(flags, &config.MaxQueued, "max-queued",
		"limit of all queues, overhead included, in `bytes`, or with KiB, MiB or GiB")
	command.Text(flags, &config.LogFile, "log", "a file",
		"write the log to this `file`, which may be renamed at any time; without it, to standard "+
			"error")
	flags.BoolVar(&config.Sync, "sync", false,
		"count a message as written only when it is on disk; needs -log")
	return flags
}
