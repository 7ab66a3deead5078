package main

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"mbus/internal/shared/command"
	"mbus/internal/shared/logfile"
)

// config has the values of the flags of the same names.
type config struct {
	log, state, stream, url, creds, ca, prefix, seek string

	timeout time.Duration

	servers string // url without user names and passwords, for reports
}

// define adds the command's flags.
func (c *config) define(flags *flag.FlagSet) {
	flags.StringVar(&c.log, "log", "", "")
	flags.StringVar(&c.state, "state", "", "")
	flags.StringVar(&c.stream, "stream", "", "")
	flags.StringVar(&c.prefix, "prefix", "mbus.", "")
	flags.StringVar(&c.url, "url", nats.DefaultURL, "")
	flags.StringVar(&c.creds, "creds", "", "")
	flags.StringVar(&c.ca, "ca", "", "")
	flags.StringVar(&c.seek, "seek", "", "")
	c.timeout = 30 * time.Second
	command.Duration(flags, &c.timeout, "timeout")
}

// validate checks the flags, and sets servers. Its error names a flag, its value and what would
// be right.
func (c *config) validate() error {
	const maxPrefix = 255
	prefix := regexp.MustCompile(`^([A-Za-z0-9_-]+\.)+$`)
	switch {
	case c.log == "":
		return errors.New("-log is missing: must be the file of a broker's log")
	case c.state == "":
		return errors.New("-state is missing: must be a file to keep the position in")
	case logfile.Belongs(c.state, c.log):
		return fmt.Errorf("-state %s: must be another file than the log and its rotated files",
			c.state)
	case c.stream == "":
		return errors.New("-stream is missing: must be the name of a stream")
	case strings.ContainsAny(c.stream, " \t\r\n\f.*>/\\"):
		return fmt.Errorf("-stream %q: must have no white space, dots, slashes, * or >",
			c.stream)
	case !prefix.MatchString(c.prefix) || len(c.prefix) > maxPrefix:
		return fmt.Errorf("-prefix %q: must be letters, digits, _ and - with a dot at the end, "+
			"such as mbus. or mbus.host1., at most %d bytes", c.prefix, maxPrefix)
	case !slices.Contains([]string{"", "start", "end", "here"}, c.seek):
		return fmt.Errorf("-seek %q: must be start, end or here", c.seek)
	case c.timeout <= 0:
		return fmt.Errorf("-timeout %s: must be a duration above 0, such as 30s", c.timeout)
	}
	return c.setServers()
}

// setServers checks url, and sets servers. The error does not show url, which may have a
// password.
func (c *config) setServers() error {
	schemes := []string{"nats", "tls", "ws", "wss"} // the library's
	var servers []string
	c.url = strings.ReplaceAll(c.url, " ", "") // as the library does
	for i, text := range strings.Split(c.url, ",") {
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
	c.servers = strings.Join(servers, ",")
	return nil
}

// options returns the options of a connection to NATS, and checks the files that they name. A
// connection does not reconnect by itself: when it is lost, the forwarder must first read the
// stream's end, to know which messages the stream has.
func (c *config) options() (nats.Options, error) {
	options := nats.GetDefaultOptions()
	options.Servers = strings.Split(c.url, ",")
	options.Name = "mbus forwarder to " + c.stream
	options.AllowReconnect = false
	options.Timeout, options.FlusherTimeout = c.timeout, c.timeout
	options.AsyncErrorCB = func(connection *nats.Conn, _ *nats.Subscription, _ error) {
		connection.Close() // after a permission error the server sends no answer
	}
	if c.ca != "" {
		if err := nats.RootCAs(c.ca)(&options); err != nil {
			return options, fmt.Errorf("-ca: %w", err)
		}
	}
	if c.creds != "" {
		if err := nats.UserCredentials(c.creds)(&options); err != nil {
			return options, fmt.Errorf("-creds: %w", err)
		}
	}
	return options, nil
}
