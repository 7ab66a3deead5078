package main

import (
	"testing"

	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

// The answer to -h has the producer's flags and their defaults.
func TestHelp(t *testing.T) {
	task := &sendTask{config: producer.DefaultConfig()}
	bustest.CheckHelp(t, help, task.newFlags())
}

// The manual page has the flags, defaults and exit statuses of -h.
func TestManual(t *testing.T) {
	bustest.CheckManual(t, "../../build/package/man/mbus-producer.1", help)
}
