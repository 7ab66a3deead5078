// Command broker is the mbus daemon: it takes messages from producers and drains
// them into its log, on standard error. See broker -h.
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

// gcPercent is the garbage collection target. It trades memory, of which the limit is
// the bound, for speed.
const gcPercent = 200

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 after a stop in which
// everything was written, 1 if the broker could not start or something was not
// written, 2 if the arguments are wrong.
func run(arguments []string, stdout, stderr io.Writer) int {
	// Ignored, a closed pipe is a write error, which the broker understands.
	signal.Ignore(syscall.SIGPIPE)
	config := broker.DefaultConfig()
	config.Log = stderr
	flags := flag.NewFlagSet("broker", flag.ContinueOnError)
	flags.StringVar(&config.ProducerHost, "phost", config.ProducerHost, "listen for producers on this `host`")
	flags.StringVar(&config.ProducerPort, "pport", config.ProducerPort, "listen for producers on this `port`, 0 for a free one")
	command.Duration(flags, &config.Interval, "interval", "drain the queues into the log every `duration`; 0: before each reply")
	command.Duration(flags, &config.Timeout, "timeout", "give each connection this `duration`, above 0, to send its payload and to find room")
	command.Size(flags, &config.MaxPayload, "max-payload", "largest payload accepted, in `bytes`; KiB, MiB and GiB are taken too")
	command.Size(flags, &config.MaxQueued, "max-queued", "limit of the queue, in `bytes`, overhead included; KiB, MiB and GiB are taken too")
	if status, done := command.Parse(flags, "[flags]", arguments, stdout, stderr); done {
		return status
	}
	if err := config.Validate(); err != nil {
		return command.Wrong(flags, err, stderr)
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
