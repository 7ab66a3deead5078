// Command broker is the message broker of mbus. It receives messages from producers and drains
// them into its log, a file or standard error. See broker -h.
package main

import (
	"cmp"
	"context"
	"flag"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"mbus/internal/broker"
	"mbus/internal/shared/command"
)

// help is the answer to -h.
const help = `usage: mbus-broker [flags]

  -log FILE           write the log to this file, which may be renamed at any time; without it,
                      write the log to standard error
  -interval DURATION  drain the queues into the log every duration; 0: before each reply
                      (default 3s)
  -sync               count a message as written only when it is on disk; needs -log
  -phost HOST         listen for producers on this host, or on the Unix socket at this path, which
                      has a slash (default 127.0.0.1)
  -pport PORT         listen for producers on this port; 0: a free one (default 9990)
  -timeout DURATION   time limit per connection, to receive its payload and queue it: a duration
                      above 0 (default 5s)
  -max-payload BYTES  largest payload accepted, in bytes, or with KiB, MiB or GiB (default 16MiB)
  -max-queued BYTES   limit of all queues, overhead included, in bytes, or with KiB, MiB or GiB
                      (default 256MiB)
  -metrics FILE       write counts to this file every 10 seconds, in the format of Prometheus
  -version            print the version and exit
  -h                  print this and exit

exit status:
  0  stopped by SIGTERM, SIGINT or SIGHUP, and every message was written
  1  could not start, or left messages unwritten; one line says why
  2  wrong arguments; one line says what would be right

examples:
  mbus-broker -log mbus.log
  mbus-broker -log mbus.log -interval 0 -sync    # accepted means on disk
  mbus-broker -log mbus.log -phost ./mbus.sock   # only this machine's users who may write it
`

// gcPercent is the garbage collection target. A higher one than the runtime's 100 saves time
// and costs memory. BrokerConfig.MemoryLimit bounds the memory.
const gcPercent = 200

func main() {
	debug.SetTraceback("crash") // a crash is SIGABRT, so that status 2 is wrong usage alone
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if the broker stopped and wrote every
// message, 1 if it could not start or left a message unwritten, 2 if the arguments are wrong.
// arguments[0] is the path of the command.
func run(arguments []string, stdout io.Writer, stderr *os.File) int {
	signal.Ignore(syscall.SIGPIPE) // a closed log is a write error, which the broker handles
	config := broker.DefaultConfig()
	config.Log = stderr
	flags := newFlags(command.Name(arguments[0]), config)
	if status, done := command.Parse(flags, help, arguments[1:], stdout, stderr); done {
		return status
	}
	err := cmp.Or(command.Unexpected(flags, ""), config.Validate(),
		command.CheckPort(flags, "phost", "pport"))
	if err != nil {
		return command.UsageError(flags, err, stderr)
	}
	if config.LogFile == "" && command.IsClosed(stderr) { // so it takes no line
		command.Report(stdout, flags.Name(), "standard error, which is the log, is closed (or is "+
			os.DevNull+", opened for reading too): must be open for writing, or use -log")
		return command.Failure
	}
	stopping := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	command.SetMemory(config.MemoryLimit(), gcPercent)
	b, err := broker.New(config)
	if err != nil {
		command.Report(stderr, flags.Name(), err.Error())
		return command.Failure
	}
	command.SendState("READY=1")
	context.AfterFunc(stopping, func() {
		command.SendState("STOPPING=1")
		b.Stop(command.SignalName(stopping))
	})
	if err := b.ProducerListen(); err != nil {
		command.Report(stderr, flags.Name(), err.Error())
		return command.Failure
	}
	return command.Success
}

// newFlags returns the broker's flags. They set config, whose values are their defaults.
func newFlags(name string, config *broker.BrokerConfig) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	command.Text(flags, &config.LogFile, "log", "a file")
	command.Duration(flags, &config.Interval, "interval")
	flags.BoolVar(&config.Sync, "sync", config.Sync, "")
	flags.StringVar(&config.ProducerHost, "phost", config.ProducerHost, "")
	flags.StringVar(&config.ProducerPort, "pport", config.ProducerPort, "")
	command.Duration(flags, &config.Timeout, "timeout")
	command.Size(flags, &config.MaxPayload, "max-payload")
	command.Size(flags, &config.MaxQueued, "max-queued")
	command.Text(flags, &config.Metrics, "metrics", "a file")
	return flags
}
