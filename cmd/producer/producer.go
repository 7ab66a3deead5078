// Command producer sends messages to an mbus broker and reports, by its exit
// status, whether they were accepted. See producer -h.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/command"
)

// unknown is the exit status after which messages may have been accepted.
const unknown = 3

// memoryLimit is above what a stream of usual lines takes, in bytes. When long
// ones take more, garbage is collected before the process grows further.
const memoryLimit = 64 << 20

// gcPercent is the garbage collection target. It trades memory, of which the limit is
// the bound, for speed.
const gcPercent = 400

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if all messages were accepted,
// 1 if not, 2 if the arguments are wrong, 3 if it is unknown of some.
func run(arguments []string, stdin *os.File, stdout io.Writer, stderr *os.File) int {
	signal.Ignore(syscall.SIGPIPE) // a closed standard error must not change the status
	config := producer.DefaultConfig()
	flags := flag.NewFlagSet("producer", flag.ContinueOnError)
	topic := flags.String("topic", "", "send to this `topic`, 1 to 255 bytes of printable text")
	message := flags.String("message", "", "send this `text`, which may be empty, and leave standard input alone")
	lines := flags.Bool("lines", false, "send each line of standard input; without it and -message, all of that is one message")
	flags.StringVar(&config.Host, "host", config.Host, "the broker's `host`")
	flags.StringVar(&config.Port, "port", config.Port, "the broker's `port`")
	command.Duration(flags, &config.Timeout, "timeout", "give a payload up after this `duration`, above 0, from dialling to the reply")
	command.Duration(flags, &config.Retry, "retry", "go on trying for this `duration` where nothing can have been queued")
	if status, done := command.Parse(flags, "-topic TOPIC [-message TEXT | -lines] [flags]", arguments, stdout, stderr); done {
		return status
	}
	var given bool
	flags.Visit(func(set *flag.Flag) { given = given || set.Name == "message" })
	stopProgress, showProgress := func() {}, func() {}
	config.Report = func(line string) {
		stopProgress()
		command.Say(stderr, flags.Name(), line)
		showProgress()
	}
	bus, err := producer.New(config)
	wrongTopic := apiv1.CheckTopic([]byte(*topic))
	switch {
	case *topic == "":
		err = errors.New("-topic is missing or empty: must be the topic to send to")
	case wrongTopic != nil:
		err = fmt.Errorf("-topic %w", wrongTopic)
	case given && *lines:
		err = errors.New("-message and -lines: must be one of them")
	}
	if err != nil {
		return command.Wrong(flags, err, stderr)
	}

	if !given && command.IsTerminal(stdin) {
		awaited := "one message"
		if *lines {
			awaited = "lines, each a message"
		}
		command.Say(stderr, flags.Name(), "reading "+awaited+", up to the end of input (Ctrl-D)")
	}
	command.SetMemory(memoryLimit, gcPercent)
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGHUP}
	if *lines { // without it, SIGINT must end a shell's loop around the producer
		signals = append(signals, syscall.SIGINT)
	}
	ctx := command.SignalContext(signals...)
	var said string
	switch {
	case given:
		err = bus.Send(ctx, []*apiv1.Message{{Topic: *topic, Data: []byte(*message)}})
	case *lines:
		progress := producer.NewProgress(stdin)
		if command.IsTerminal(stderr) && !command.IsTerminal(stdin) { // nobody types there
			showProgress = func() { stopProgress = progress.Show(stderr) }
			showProgress()
		}
		err = bus.SendLines(ctx, *topic, stdin, progress.Add)
		stopProgress()
		said = progress.String()
	default:
		err = bus.SendAll(ctx, *topic, stdin)
	}
	switch {
	case err != nil && *lines:
		said += "; " + err.Error()
	case err != nil:
		said = err.Error()
	}
	if said != "" {
		command.Say(stderr, flags.Name(), said)
	}
	switch {
	case errors.Is(err, producer.ErrUnknown):
		return unknown
	case err != nil:
		return command.Failure
	}
	return command.Success
}
