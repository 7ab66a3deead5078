// Command broker is the mbus daemon. It receives messages from producers and drains them
// into its log, on standard error. See broker -h.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/signal"
	"syscall"

	"mbus/internal/broker"
	"mbus/internal/shared/command"
)

// gcPercent is the garbage collection target. More than the runtime's 100 saves time and
// costs memory, which BrokerConfig.MemoryLimit bounds.
const gcPercent = 200

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if the broker stopped and wrote every
// message, 1 if it could not start or left a message unwritten, 2 if the arguments are wrong.
func run(arguments []string, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // a closed log is a write error, which the broker handles
	config := broker.DefaultConfig()
	config.Log = stderr
	flags := newFlags(config)
	if status, done := command.Parse(flags, "[flags]", arguments, stdout, stderr); done {
		return status
	}
	if err := config.Validate(); err != nil {
		return command.UsageError(flags, err, stderr)
	}
	stopping := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	command.SetMemory(config.MemoryLimit(), gcPercent)
	bus, err := broker.New(config)
	if err != nil {
		command.Say(stderr, flags.Name(), err.Error())
		return command.Failure
	}
	context.AfterFunc(stopping, bus.Close)
	if err := bus.ProducerListen(); err != nil {
		command.Say(stderr, flags.Name(), err.Error())
		return command.Failure
	}
	return command.Success
}

// newFlags returns the broker's flags, which set config. Its values are the defaults.
func newFlags(config *broker.BrokerConfig) *flag.FlagSet {
	flags := flag.NewFlagSet("broker", flag.ContinueOnError)
	flags.StringVar(&config.ProducerHost, "phost", config.ProducerHost,
		"listen for producers on this `host`")
	flags.StringVar(&config.ProducerPort, "pport", config.ProducerPort,
		"listen for producers on this `port`; 0: any free one")
	command.Duration(flags, &config.Interval, "interval",
		"drain the queues into the log every `duration`; 0: before each reply")
	command.Duration(flags, &config.Timeout, "timeout",
		"time limit per connection, to receive its payload and queue it: a `duration` above 0")
	command.Size(flags, &config.MaxPayload, "max-payload",
		"largest payload accepted, in `bytes`, or with KiB, MiB or GiB")
	command.Size(flags, &config.MaxQueued, "max-queued",
		"limit of what is queued, overhead included, in `bytes`, or with KiB, MiB or GiB")
	flags.Func("log",
		"write the log to this `file`, which may be renamed at any time; else to standard error",
		func(path string) error {
			if path == "" {
				return errors.New("must be a file")
			}
			config.LogFile = path
			return nil
		})
	flags.BoolVar(&config.Sync, "sync", false,
		"count a message as written only when it is on disk; needs -log")
	return flags
}
