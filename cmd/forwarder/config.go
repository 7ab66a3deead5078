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
func (config *config) define(flags *flag.FlagSet) {
	flags.StringVar(&config.log, "log", "", "")
	flags.StringVar(&config.state, "state", "", "")
	flags.StringVar(&config.stream, "stream", "", "")
	flags.StringVar(&config.prefix, "prefix", "mbus.", "")
	flags.StringVar(&config.url, "url", nats.DefaultURL, "")
	flags.StringVar(&config.creds, "creds", "", "")
	flags.StringVar(&config.ca, "ca", "", "")
	flags.StringVar(&config.seek, "seek", "", "")
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
	case !slices.Contains([]string{"", "start", "end", "here"}, config.seek):
		return fmt.Errorf("-seek %q: must be start, end or here", config.seek)
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
