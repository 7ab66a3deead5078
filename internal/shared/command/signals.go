package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	// pairTime is how long signals count as one request to stop: timeout(1) and
	// systemd send two at once.
	pairTime = 200 * time.Millisecond

	// hangupTime is pairTime for SIGHUP. When a terminal is closed, the kernel
	// sends one and the shell another, some time apart.
	hangupTime = time.Second
)

// SignalContext returns a context that ends when the process receives one of
// signals. The context's cause names that signal. Signals that arrive within 200 ms
// of the first, and SIGHUP within a second, belong to the same request to stop. A
// later one has its default action: it ends the process.
//
// A SIGHUP or SIGINT that was ignored when the process started stays ignored: nohup
// ignores the one, and a shell ignores the other in a script's background commands.
//
// SignalContext is for the main function, once: it never stops waiting for signals.
func SignalContext(signals ...os.Signal) context.Context {
	received := make(chan os.Signal, 1)
	hangups := make(chan os.Signal, 1) // keeps SIGHUP from its default action
	for _, each := range signals {
		if signal.Ignored(each) {
			continue
		}
		signal.Notify(received, each)
		if each == syscall.SIGHUP {
			signal.Notify(hangups, each)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		cancel(fmt.Errorf("stopped by signal: %v", <-received))
		time.Sleep(pairTime)
		signal.Stop(received)
		time.Sleep(hangupTime - pairTime)
		signal.Stop(hangups)
	}()
	return ctx
}
