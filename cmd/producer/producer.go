// Command producer sends a message to an mbus broker and reports, by its exit
// status, whether it was accepted. See producer -h.
package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"os/signal"
	"syscall"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/command"
)

// unknown is the exit status after which the message may have been accepted.
const unknown = 3

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 if the message was accepted,
// 1 if not, 2 if the arguments are wrong, 3 if it is unknown.
func run(arguments []string, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // a closed standard error must not change the status
	config := producer.DefaultConfig()
	flags := flag.NewFlagSet("producer", flag.ContinueOnError)
	topic := flags.String("topic", "", "send to this `topic`, 1 to 255 bytes of printable text")
	message := flags.String("message", "", "send this `text`, which may be empty")
	flags.StringVar(&config.Host, "host", config.Host, "the broker's `host`")
	flags.StringVar(&config.Port, "port", config.Port, "the broker's `port`")
	command.Duration(flags, &config.Timeout, "timeout", "give up after this `duration`, above 0, from dialling to the reply")
	if status, done := command.Parse(flags, "-topic TOPIC -message TEXT [flags]", arguments, stdout, stderr); done {
		return status
	}
	var given bool
	flags.Visit(func(set *flag.Flag) { given = given || set.Name == "message" })
	var err error
	switch {
	case *topic == "":
		err = errors.New("-topic is missing or empty: must be the topic to send to")
	case !given:
		err = errors.New("-message is missing: must be the text to send, which may be empty")
	default:
		err = config.Validate()
	}
	if err != nil {
		return command.Wrong(flags, err, stderr)
	}

	bus, err := producer.New(config)
	if err == nil {
		err = bus.Send([]*apiv1.Message{{Topic: *topic, Data: []byte(*message)}})
	}
	if err == nil {
		return command.Success
	}
	command.Complain(stderr, flags.Name(), err)
	if errors.Is(err, producer.ErrUnknown) {
		return unknown
	}
	return command.Failure
}
