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
