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
