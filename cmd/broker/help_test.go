package main

import (
	"testing"

	"mbus/internal/broker"
	"mbus/internal/shared/bustest"
)

// The answer to -h has the broker's flags and their defaults.
func TestHelp(t *testing.T) {
	bustest.CheckHelp(t, help, newFlags("broker", broker.DefaultConfig()))
}

// The manual page has the flags, defaults and exit statuses of -h.
func TestManual(t *testing.T) {
	bustest.CheckManual(t, "../../build/package/man/mbus-broker.8", help)
}
