package main

import (
	"flag"
	"testing"

	"mbus/internal/shared/bustest"
)

// The answer to -h has the forwarder's flags and their defaults.
func TestHelp(t *testing.T) {
	flags := flag.NewFlagSet("forwarder", flag.ContinueOnError)
	new(config).define(flags)
	bustest.CheckHelp(t, help, flags)
}

// The manual page has the flags, defaults and exit statuses of -h.
func TestManual(t *testing.T) {
	bustest.CheckManual(t, "../../build/package/man/mbus-forwarder.8", help)
}
