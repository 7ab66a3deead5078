//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyCounts makes SIGUSR1, which asks for the counts, arrive in requests.
func notifyCounts(requests chan<- os.Signal) {
	signal.Notify(requests, syscall.SIGUSR1)
}
