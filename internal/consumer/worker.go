package consumer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

const (
	// The pause before each retry doubles from minPause to maxPause.
	minPause = 100 * time.Millisecond
	maxPause = 10 * time.Second
)

// errStopped is the error of a message whose command failed while the consumer was stopping.
var errStopped = errors.New("stopped")

// worker delivers messages to a command, and runs it once for each message.
type worker struct {
	config *Config
	failed error // the error of the message that was not delivered
}

// deliver runs the command until it succeeds, or has failed for Config.Retry. The end of ctx
// does not interrupt the command, but prevents the next retry.
func (worker *worker) deliver(ctx context.Context, message *message) error {
	err := worker.run(message)
	if err == nil {
		return nil
	}
	first, tries := time.Now(), 1
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		left := worker.config.Retry - time.Since(first)
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
		if tries == 1 {
			again := fmt.Errorf("%w; retrying for up to %s", err, worker.config.Retry)
			worker.config.Report(message.wrap(again).Error())
		}
		tries++
		if err = worker.run(message); err == nil {
			took := time.Since(first).Round(time.Millisecond)
			over := fmt.Errorf("delivered after %s of retrying", took)
			worker.config.Report(message.wrap(over).Error())
			return nil
		}
	}
}

// flush returns the error of the message that was not delivered.
func (worker *worker) flush(bool) error {
	return worker.failed
}

// run runs the command once. The command reads the data from an unlinked file and not from a
// pipe: if the consumer were killed, a pipe would end early, and the command would take a part
// of the data for all of it.
func (worker *worker) run(message *message) error {
	input, err := os.CreateTemp("", "mbus-consumer-")
	if err != nil {
		return err
	}
	defer input.Close()
	if err := os.Remove(input.Name()); err != nil {
		return err
	}
	// The command begins to read at the file's offset, which WriteAt leaves at 0.
	if _, err := input.WriteAt(message.data, 0); err != nil {
		return err
	}
	command := worker.config.Command
	process := exec.Command(command[0], command[1:]...)
	process.Stdin = input
	process.Stdout, process.Stderr = worker.config.Output, worker.config.Errors
	process.Env = append(os.Environ(), "MBUS_TOPIC="+message.topic, "MBUS_TIME="+message.time())
	if err := process.Run(); err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
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
