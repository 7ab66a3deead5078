// Command forwarder carries the messages of an mbus broker's log into a stream of NATS
// JetStream (the engine), each once and in order. See forwarder -h.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"mbus/internal/shared/command"
	"mbus/internal/shared/follow"
	"mbus/internal/shared/logfile"
)

// help is the answer to -h.
const help = `usage: mbus-forwarder -log FILE -state FILE -stream NAME [flags]

  -log FILE          follow this broker's log file, through rotation
  -state FILE        keep the position in this file, and continue from it
  -stream NAME       publish into the stream of this name
  -prefix PREFIX     put this prefix before each topic (default mbus.)
  -url SERVERS       connect to one of these servers, separated by commas; other users of this
                     machine can see a password in it (default nats://127.0.0.1:4222)
  -creds FILE        use the credentials in this file
  -ca FILE           trust the certificates in this file, and use TLS
  -from PLACE        without a valid position, begin at this place of the log: start or end
  -timeout DURATION  time limit for connecting and each answer: a duration above 0 (default 30s)
  -version           print the version and exit
  -h                 print this and exit

exit status:
  0  stopped by SIGTERM, SIGINT or SIGHUP
  1  could not continue; one line says why, and what to do
  2  wrong arguments; one line says what would be right

examples:
  mbus-forwarder -log mbus.log -state forwarder.state -stream ORDERS
  mbus-forwarder -log mbus.log -state state -stream HOST1 -prefix mbus.host1. -url tls://nats
`

// stopPatience is how long a stop waits for an answer of the engine. Then it ends the process,
// which loses nothing: the next start finds its place in the same way as after a kill.
const stopPatience = 3 * time.Second

func main() {
	debug.SetTraceback("crash") // a crash is SIGABRT, so that status 2 is wrong usage alone
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the command. It returns the exit status: 0 after a signal to stop, 1 if the forwarder
// can't continue, 2 if the arguments are wrong. arguments[0] is the path of the command.
func run(arguments []string, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // a closed standard error must not end the forwarder
	stop := command.SignalContext(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	flags := flag.NewFlagSet(command.Name(arguments[0]), flag.ContinueOnError)
	config := new(config)
	config.define(flags)
	if status, done := command.Parse(flags, help, arguments[1:], stdout, stderr); done {
		return status
	}
	if err := cmp.Or(command.Unexpected(flags, ""), config.validate()); err != nil {
		return command.UsageError(flags, err, stderr)
	}
	debug.SetGCPercent(10) // a long line needs large buffers; little of them may be garbage
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

// forward forwards messages until stop ends. Its error is one that an operator must correct.
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
	log := follow.New(config.log, func(line string) { report("%s", line) })
	defer log.Close()
	forwarder := &forwarder{
		config: config, report: report, client: client, log: log, state: state, limit: maxMessages,
	}
	if err := forwarder.load(); err != nil {
		return err
	}
	return forwarder.run(stop)
}

// config has the values of the flags of the same names.
type config struct {
	log, state, stream, url, creds, ca, prefix, from string

	timeout time.Duration

	servers string // url without user names and passwords, for reports
}

// define adds the command's flags.
func (config *config) define(flags *flag.FlagSet) {
	flags.StringVar(&config.log, "log", "", "")
	flags.StringVar(&config.state, "state", "", "")
	flags.StringVar(&config.stream, "stream", "", "")
	flags.StringVar(&config.prefix, "prefix", "mbus.", "")
	flags.StringVar(&config.url, "url", nats.DefaultURL, "")
	flags.StringVar(&config.creds, "creds", "", "")
	flags.StringVar(&config.ca, "ca", "", "")
	flags.StringVar(&config.from, "from", "", "")
	config.timeout = 30 * time.Second
	command.Duration(flags, &config.timeout, "timeout")
}

// validate checks the flags, and sets servers. Its error names a flag, its value and what would
// be right.
func (config *config) validate() error {
	const maxPrefix = 255
	prefix := regexp.MustCompile(`^([A-Za-z0-9_-]+\.)+$`)
	switch {
	case config.log == "":
		return errors.New("-log is missing: must be the file of a broker's log")
	case config.state == "":
		return errors.New("-state is missing: must be a file to keep the position in")
	case logfile.Belongs(config.state, config.log):
		return fmt.Errorf("-state %s: must be another file than the log and its rotated files",
			config.state)
	case config.stream == "":
		return errors.New("-stream is missing: must be the name of a stream")
	case strings.ContainsAny(config.stream, " \t\r\n\f.*>/\\"):
		return fmt.Errorf("-stream %q: must have no white space, dots, slashes, * or >",
			config.stream)
	case !prefix.MatchString(config.prefix) || len(config.prefix) > maxPrefix:
		return fmt.Errorf("-prefix %q: must be letters, digits, _ and - with a dot at the end, "+
			"such as mbus. or mbus.host1., at most %d bytes", config.prefix, maxPrefix)
	case config.from != "" && config.from != "start" && config.from != "end":
		return fmt.Errorf("-from %q: must be start or end", config.from)
	case config.timeout <= 0:
		return fmt.Errorf("-timeout %s: must be a duration above 0, such as 30s", config.timeout)
	}
	return config.setServers()
}

// setServers checks url, and sets servers. The error does not show url, which may have a
// password.
func (config *config) setServers() error {
	schemes := []string{"nats", "tls", "ws", "wss"} // the client's
	var servers []string
	config.url = strings.ReplaceAll(config.url, " ", "") // as the client does
	for i, text := range strings.Split(config.url, ",") {
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		server, err := url.Parse(text)
		if err != nil || server.Hostname() == "" || !slices.Contains(schemes, server.Scheme) {
			return fmt.Errorf("-url: server %d must be like nats://host:4222 or tls://host:4222",
				i+1)
		}
		servers = append(servers, server.Scheme+"://"+server.Host)
	}
	config.servers = strings.Join(servers, ",")
	return nil
}

// client returns the options of the NATS client, and checks the files that they name. The
// client does not reconnect by itself: after a lost connection, the forwarder must first
// read the stream's end, to know which messages the stream has.
func (config *config) client() (nats.Options, error) {
	client := nats.GetDefaultOptions()
	client.Servers = strings.Split(config.url, ",")
	client.Name = "mbus forwarder to " + config.stream
	client.AllowReconnect = false
	client.Timeout, client.FlusherTimeout = config.timeout, config.timeout
	client.AsyncErrorCB = func(connection *nats.Conn, _ *nats.Subscription, _ error) {
		connection.Close() // after a permission error the server sends no answer
	}
	if config.ca != "" {
		if err := nats.RootCAs(config.ca)(&client); err != nil {
			return client, fmt.Errorf("-ca: %w", err)
		}
	}
	if config.creds != "" {
		if err := nats.UserCredentials(config.creds)(&client); err != nil {
			return client, fmt.Errorf("-creds: %w", err)
		}
	}
	return client, nil
}
