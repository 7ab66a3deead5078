//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyCounts has a signal sent to requests whenever the counts are asked for: by SIGUSR1.
func notifyCounts(requests chan<- os.Signal) {
	signal.Notify(requests, syscall.SIGUSR1)
}
