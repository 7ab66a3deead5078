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
)

// config is what a forwarder is to do. The fields are the flags of these names.
type config struct {
	log, state, stream, url, creds, ca, prefix, from string

	timeout time.Duration

	servers string // those of url, without what is secret
}

// define adds the command's flags.
func (config *config) define(flags *flag.FlagSet) {
	flags.StringVar(&config.log, "log", "", "follow this broker's log `file`, through rotation")
	flags.StringVar(&config.state, "state", "", "keep the position in this `file`, and go on from it")
	flags.StringVar(&config.stream, "stream", "", "publish into the stream of this `name`")
	flags.StringVar(&config.url, "url", nats.DefaultURL, "connect to one of these `servers`, "+
		"with commas between them; others on this machine can see a password in it")
	flags.StringVar(&config.creds, "creds", "", "use the credentials in this `file`")
	flags.StringVar(&config.ca, "ca", "", "trust the certificates in this `file`, and use TLS")
	flags.StringVar(&config.prefix, "prefix", "mbus.", "put this `prefix` before each topic")
	flags.StringVar(&config.from, "from", "",
		"where there is no position to go on from, begin at this `place`: start or end")
	config.timeout = 30 * time.Second
	command.Duration(flags, &config.timeout, "timeout",
		"give connecting, and each answer, this `duration`, above 0")
}

// validate returns nil if a forwarder can be made of config. Otherwise its error names
// the flag, its value and what would be right.
func (config *config) validate() error {
	const maxPrefix = 255
	prefix := regexp.MustCompile(`^([A-Za-z0-9_-]+\.)+$`)
	switch {
	case config.log == "":
		return errors.New("-log is missing: must be the file of a broker's log")
	case config.state == "":
		return errors.New("-state is missing: must be a file to keep the position in")
	case config.stream == "":
		return errors.New("-stream is missing: must be the name of a stream")
	case strings.ContainsAny(config.stream, " \t\r\n\f.*>/\\"):
		return fmt.Errorf("-stream %q: must have no white space, dots, slashes, * and >", config.stream)
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

// setServers checks url and sets servers. The error does not show -url: there may be a password in it.
func (config *config) setServers() error {
	schemes := []string{"nats", "tls", "ws", "wss"} // that the client knows
	var servers []string
	config.url = strings.ReplaceAll(config.url, " ", "") // as the client does
	for i, text := range strings.Split(config.url, ",") {
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		server, err := url.Parse(text)
		if err != nil || server.Hostname() == "" || !slices.Contains(schemes, server.Scheme) {
			return fmt.Errorf("-url: server %d must be as nats://host:4222 or tls://host:4222", i+1)
		}
		servers = append(servers, server.Scheme+"://"+server.Host)
	}
	config.servers = strings.Join(servers, ",")
	return nil
}

// client returns the client's options, and checks the files that they name. The client
// does not reconnect: only the stream's end says what a lost connection has left behind.
func (config *config) client() (nats.Options, error) {
	client := nats.GetDefaultOptions()
	client.Servers = strings.Split(config.url, ",")
	client.Name = "mbus forwarder to " + config.stream
	client.AllowReconnect = false
	client.Timeout, client.FlusherTimeout = config.timeout, config.timeout
	client.AsyncErrorCB = func(connection *nats.Conn, _ *nats.Subscription, _ error) {
		connection.Close() // an answer that is awaited will never come
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
