package main

import (
	"flag"
	"testing"

	"mbus/internal/consumer"
	"mbus/internal/shared/bustest"
)

// The answer to -h has the consumer's flags and their defaults.
func TestHelp(t *testing.T) {
	flags := flag.NewFlagSet("consumer", flag.ContinueOnError)
	define(flags, new(consumer.Config))
	bustest.CheckHelp(t, help, flags)
}

// The manual page has the flags, defaults and exit statuses of -h.
func TestManual(t *testing.T) {
	bustest.CheckManual(t, "../../build/package/man/mbus-consumer.1", help)
}
