package consumer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"mbus/internal/shared/osfile"
)

const (
	// The pause before each retry doubles from minPause to maxPause.
	minPause = 100 * time.Millisecond
	maxPause = 10 * time.Second

	// reportInterval is the time between two reports of a message that still fails.
	reportInterval = time.Hour

	// inputPrefix begins the name of a command's input where the file must have a name.
	inputPrefix = "mbus-consumer-"
)

// errStopped is the error of a message whose command failed while the consumer was stopping.
var errStopped = errors.New("stopped")

// worker delivers messages to a command, and runs it once for each message.
type worker struct {
	config *Config
	again  time.Duration // the time between two reports of a message that still fails
	failed error         // the error of the message that was not delivered
}

// deliver runs the command until it succeeds, or has failed for Config.Retry. The end of ctx
// does not interrupt the command, but prevents the next retry.
func (worker *worker) deliver(ctx context.Context, message *message) error {
	first, reported := time.Now(), time.Time{}
	for attempt, pause := 1, minPause; ; attempt, pause = attempt+1, min(2*pause, maxPause) {
		err := worker.run(message, attempt)
		took := time.Since(first)
		if err == nil {
			if attempt > 1 {
				worker.report(message, fmt.Errorf("delivered after %s of retrying",
					took.Round(time.Millisecond)))
			}
			return nil
		}
		left := worker.config.Retry - took
		// This also waits before giving up: a signal from a terminal may have ended
		// the command, and may end ctx a moment later.
		if !sleep(ctx, max(min(pause, left), minPause)) {
			worker.failed = errStopped
			return errStopped
		}
		if left <= 0 {
			worker.failed = message.wrap(err)
			return worker.failed
		}
		if time.Since(reported) >= worker.again {
			reported = time.Now()
			if attempt > 1 {
				err = fmt.Errorf("attempt %d failed: %w", attempt, err)
			}
			worker.report(message,
				fmt.Errorf("%w; retrying for up to %s", err, worker.config.Retry))
		}
	}
}

// report reports err with the id and the topic of the message.
func (worker *worker) report(message *message, err error) {
	worker.config.Report(message.wrap(err).Error())
}

// flush returns the error of the message that was not delivered.
func (worker *worker) flush(bool) error {
	return worker.failed
}

// run runs the command once. The attempt counts the runs for this message from 1. The command reads
// the data from a file without a name, and not from a pipe: if the consumer were killed, a pipe
// would end early, and the command would take a part of the data for all of it.
func (worker *worker) run(message *message, attempt int) error {
	input, err := osfile.CreateUnnamed(os.TempDir(), inputPrefix)
	if err != nil {
		return err
	}
	defer input.Close()
	// The command begins to read at the file's offset, which WriteAt leaves at 0.
	if _, err := input.WriteAt(message.Data, 0); err != nil {
		return err
	}
	command := worker.config.Command
	process := exec.Command(command[0], command[1:]...)
	process.Stdin = input
	process.Stdout, process.Stderr = worker.config.Output, worker.config.Errors
	process.Env = append(os.Environ(), "MBUS_TOPIC="+message.Topic,
		"MBUS_TIME="+string(message.appendTime(nil)), "MBUS_ID="+message.id,
		"MBUS_ATTEMPT="+strconv.Itoa(attempt))
	if err := process.Run(); err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
	}
	return nil
}

// checkRoom returns an error if there is no place for the input of a command.
func checkRoom() error {
	input, err := osfile.CreateUnnamed(os.TempDir(), inputPrefix)
	if err == nil {
		defer input.Close()
		_, err = input.Write(make([]byte, os.Getpagesize()))
	}
	if err != nil {
		return fmt.Errorf("a command's input can't be kept in %s (TMPDIR): %w", os.TempDir(), err)
	}
	return nil
}

// sleep sleeps, and returns false at once when ctx ends.
func sleep(ctx context.Context, pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-ctx.Done():
		return false
	}
}
