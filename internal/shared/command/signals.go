package command

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	// pairTime is the time after the first signal in which further ones are part of the same
	// request to stop: timeout(1) and systemd send two at once.
	pairTime = 200 * time.Millisecond

	// hangupTime is pairTime for SIGHUP. When a terminal is closed, the kernel sends one
	// SIGHUP and the shell sends another later.
	hangupTime = time.Second
)

// signalError is the cause of the end of a SignalContext: the name of the signal.
type signalError string

// Error implements error.
func (e signalError) Error() string {
	return "stopped by signal: " + string(e)
}

// SignalName returns the name of the signal that has ended a SignalContext, such as SIGTERM.
func SignalName(ctx context.Context) string {
	var name signalError
	errors.As(context.Cause(ctx), &name)
	return string(name)
}

// nameOf returns the name of a signal. Go has only a description, such as "terminated".
func nameOf(received os.Signal) string {
	switch received {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGHUP:
		return "SIGHUP"
	}
	return received.String()
}

// SignalContext returns a context that ends when the process receives one of signals. The
// context's cause and SignalName name that signal. Further signals within 200 ms, and further
// SIGHUPs within a second, are part of the same request to stop and have no effect. A later
// signal has its default action: it ends the process.
//
// A SIGHUP or SIGINT that was ignored when the process started stays ignored: nohup makes
// its command ignore SIGHUP, and a script's background commands ignore SIGINT.
//
// A main function calls SignalContext once. Its goroutine runs until a second after a signal.
func SignalContext(signals ...os.Signal) context.Context {
	received := make(chan os.Signal, 1)
	hangups := make(chan os.Signal, 1) // never read: it only prevents the default action
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
		cancel(signalError(nameOf(<-received)))
		time.Sleep(pairTime)
		signal.Stop(received)
		time.Sleep(hangupTime - pairTime)
		signal.Stop(hangups)
	}()
	return ctx
}
