//go:build unix

package main

import (
	"os/signal"
	"syscall"
)

// SIGUSR1 has no effect. By default it would end the broker.
func init() { signal.Ignore(syscall.SIGUSR1) }
