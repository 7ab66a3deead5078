package consumer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"mbus/internal/shared/follow"
)

const (
	// The pause before each retry doubles from minPause to maxPause.
	minPause = 100 * time.Millisecond
	maxPause = 10 * time.Second

	// largeData is the size of data, in bytes, above which a larger buffer costs a collection of
	// garbage.
	largeData = 1 << 20

	// reportInterval is the time between two reports of a message that still fails.
	reportInterval = time.Hour
)

// errStopped is the error of a message that failed while the consumer was stopping.
var errStopped = errors.New("stopped")

// work delivers messages to the command, by as many jobs at once as Config.Jobs says. Each job
// takes the next message itself. After the first error no message is started, and none that fails
// is tried again: cancel ends ctx. work returns that error when the messages that are started have
// ended.
func (c *Consumer) work(ctx context.Context, cancel func()) error {
	failed, err := newFailedTopic(c.config)
	if err != nil {
		return err
	}
	var jobs sync.WaitGroup
	failures := make(chan error, MaxJobs)
	for number := range max(c.config.Jobs, 1) {
		jobs.Go(func() {
			variable := fmt.Sprintf("MBUS_JOB=%d", number+1)
			err := c.serve(ctx, &job{config: c.config, variable: variable, failed: failed})
			if err != nil && !errors.Is(err, errStopped) {
				failures <- err
				cancel()
			}
		})
	}
	jobs.Wait()
	close(failures)
	return <-failures
}

// serve delivers messages by one job until there are no more, or ctx ends. It saves the position
// after each command, and at the end. Between two messages of a persistent command, run does.
func (c *Consumer) serve(ctx context.Context, j *job) error {
	defer j.close() // after the last save
	for {
		taken, err := c.take(ctx, j)
		if taken != nil {
			err = j.deliver(ctx)
		}
		isLast := taken == nil || err != nil
		if !isLast {
			c.window.finish(taken)
		}
		if isLast || !c.config.Persistent {
			err = cmp.Or(err, c.window.save())
		}
		if isLast || err != nil {
			return err
		}
	}
}

// take takes the next message for a job. With a state, it makes the log durable up to that message
// before it returns. If there is no message at -end, -count, the end of input or the end of ctx, it
// returns nil.
func (c *Consumer) take(ctx context.Context, j *job) (*started, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		c.window.await(ctx)
		m, err := c.next(ctx)
		if err != nil || m.Message == nil {
			return nil, err
		}
		var after follow.Position
		if c.config.State != "" {
			if err := c.log.Sync(); err != nil {
				return nil, err
			}
			after = c.log.Position()
		}
		taken := c.window.start(after, m.Checksum)
		if taken == nil {
			continue
		}
		c.count++
		j.message = m
		j.keep()
		return taken, nil
	}
}

// job delivers messages to the command, one at a time. The methods that run it are in command.go
// and persistent.go.
type job struct {
	config   *Config
	variable string       // of the command's environment: the number of the job
	failed   *failedTopic // nil without -failed
	message  message      // in hand
	buffer   []byte       // for its data
	process  *process     // a persistent command that runs; nil: none
}

// keep copies what is a part of the line of the message in hand, so that the next line may be read.
func (j *job) keep() {
	kept := *j.message.Message
	if cap(j.buffer) < len(kept.Data) {
		if j.buffer = nil; len(kept.Data) > largeData {
			debug.FreeOSMemory() // or garbage would take as much as all the buffers
		}
		j.buffer = make([]byte, len(kept.Data))
	}
	kept.Stamp = bytes.Clone(kept.Stamp)
	kept.Data = append(j.buffer[:0], kept.Data...)
	j.message.Message = &kept
}

// deliver runs the command for the message in hand until it succeeds, or has failed for
// Config.Retry. With -failed, it then sends the message to that topic. The end of ctx does not
// interrupt the command, but prevents the next retry. Then the error is errStopped.
func (j *job) deliver(ctx context.Context) error {
	first, reported := time.Now(), time.Time{}
	for attempt, pause := 1, minPause; ; attempt, pause = attempt+1, min(2*pause, maxPause) {
		err := j.run(attempt)
		took := time.Since(first)
		if err == nil {
			if attempt > 1 {
				j.report("delivered after %s of retrying", took.Round(time.Millisecond))
			}
			return nil
		}
		left := j.config.Retry - took
		// This also waits before giving up: a signal from a terminal may have ended
		// the command, and may end ctx a moment later.
		if !sleep(ctx, max(min(pause, left), minPause)) {
			return errStopped
		}
		if left <= 0 {
			return j.giveUp(ctx, err)
		}
		if time.Since(reported) >= reportInterval {
			reported = time.Now()
			if attempt > 1 {
				err = fmt.Errorf("attempt %d failed: %w", attempt, err)
			}
			j.report("%v; retrying for up to %s", err, j.config.Retry)
		}
	}
}

// giveUp returns err, the last error of the message in hand, or sends the message to -failed.
// It does not send a message whose command can't be run: that is no message's fault.
func (j *job) giveUp(ctx context.Context, err error) error {
	if j.failed == nil || errors.Is(err, errNotRun) {
		return fmt.Errorf("%s: %w", j.message, err)
	}
	if sendErr := j.failed.send(ctx, j.message); sendErr != nil {
		return sendErr
	}
	j.report("%v; sent to topic %s", err, j.config.Failed)
	return nil
}

// report reports a line of the message in hand and the text that the format gives.
func (j *job) report(format string, arguments ...any) {
	j.config.Report(j.message.String() + ": " + fmt.Sprintf(format, arguments...))
}

// run runs the command for the message in hand, or has a persistent one handle it. The attempt
// counts the runs for this message from 1.
func (j *job) run(attempt int) error {
	if j.config.Persistent {
		return j.runPersistent(attempt)
	}
	return j.runOnce(attempt)
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
