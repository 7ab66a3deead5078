package consumer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/follow"
)

// MaxJobs is the largest number of jobs.
const MaxJobs = 64

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
// is tried again. work returns that error when the messages that are started have ended.
func (consumer *Consumer) work(ctx context.Context) error {
	sender, err := newSender(consumer.config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for sleep(ctx, saveInterval) {
			consumer.window.save() // a job returns its error
		}
	}()
	var jobs sync.WaitGroup
	var once sync.Once
	for number := range consumer.jobs() {
		jobs.Go(func() {
			job := newJob(consumer.config, number+1, sender)
			if jobErr := consumer.serve(ctx, job); jobErr != nil {
				once.Do(func() { err = jobErr })
				cancel()
			}
		})
	}
	jobs.Wait()
	return err
}

// jobs returns the number of messages that are delivered at once.
func (consumer *Consumer) jobs() int {
	return max(consumer.config.Jobs, 1)
}

// serve delivers messages by one job until there are no more, or ctx ends. It saves the position
// after each command, and at the end. Between two messages of a persistent command, work does.
func (consumer *Consumer) serve(ctx context.Context, job *job) error {
	defer job.runner.close()
	for {
		number, found, err := consumer.take(ctx, job)
		if err == nil && found {
			if err = job.deliver(ctx); err == nil {
				consumer.window.finish(number)
			}
		}
		isLast := err != nil || !found
		if isLast || !consumer.config.Persistent {
			err = cmp.Or(err, consumer.window.save())
		}
		switch {
		case errors.Is(err, errStopped):
			return nil
		case err != nil || isLast:
			return err
		}
	}
}

// take takes the next message for a job. It makes the log durable up to that message before it
// returns. The number is that of the message in the window. If there is no message at -end,
// -count, the end of input or the end of ctx, found is false.
func (consumer *Consumer) take(ctx context.Context, job *job) (number int, found bool, err error) {
	consumer.reading.Lock()
	defer consumer.reading.Unlock()
	for {
		consumer.window.await(ctx)
		found, err := consumer.next(ctx)
		if err != nil || !found {
			return 0, false, err
		}
		var after follow.Position
		if consumer.config.State != "" {
			if err := consumer.log.Sync(); err != nil {
				return 0, false, err
			}
			after = consumer.log.Position()
		}
		number, delivered := consumer.window.start(after)
		if delivered {
			continue
		}
		consumer.count++
		if job.message = consumer.message; consumer.jobs() > 1 { // with one job, nobody reads on
			job.keep()
		}
		return number, true, nil
	}
}

// job delivers messages to a command, one at a time.
type job struct {
	config  *Config
	runner  runner
	sender  *sender       // nil without -failed
	message message       // in hand
	buffer  []byte        // for its data
	again   time.Duration // the time between two reports of a message that still fails
}

// keep copies what is a part of the line of the message in hand, so that the next line may be read.
func (job *job) keep() {
	kept := *job.message.Message
	if cap(job.buffer) < len(kept.Data) {
		if job.buffer = nil; len(kept.Data) > largeData {
			debug.FreeOSMemory() // or garbage would take as much as all the buffers
		}
		job.buffer = make([]byte, len(kept.Data))
	}
	kept.Stamp = bytes.Clone(kept.Stamp)
	kept.Data = append(job.buffer[:0], kept.Data...)
	job.message.Message = &kept
}

// runner runs a command for a message. The attempt counts the runs for this message from 1.
type runner interface {
	run(message *message, attempt int) error
	close() // ends what is still running
}

func newJob(config *Config, number int, sender *sender) *job {
	job := &job{config: config, sender: sender, again: reportInterval}
	environment := fmt.Sprintf("MBUS_JOB=%d", number)
	if config.Persistent {
		job.runner = &persistent{config: config, environment: environment}
	} else {
		job.runner = &command{config: config, environment: environment}
	}
	return job
}

// deliver runs the command for the message in hand until it succeeds, or has failed for
// Config.Retry. With -failed, it then sends the message to that topic. The end of ctx does not
// interrupt the command, but prevents the next retry. Then the error is errStopped.
func (job *job) deliver(ctx context.Context) error {
	first, reported := time.Now(), time.Time{}
	for attempt, pause := 1, minPause; ; attempt, pause = attempt+1, min(2*pause, maxPause) {
		err := job.runner.run(&job.message, attempt)
		took := time.Since(first)
		if err == nil {
			if attempt > 1 {
				job.report(fmt.Errorf("delivered after %s of retrying",
					took.Round(time.Millisecond)))
			}
			return nil
		}
		left := job.config.Retry - took
		// This also waits before giving up: a signal from a terminal may have ended
		// the command, and may end ctx a moment later.
		if !sleep(ctx, max(min(pause, left), minPause)) {
			return errStopped
		}
		if left <= 0 {
			return job.giveUp(ctx, err)
		}
		if time.Since(reported) >= job.again {
			reported = time.Now()
			if attempt > 1 {
				err = fmt.Errorf("attempt %d failed: %w", attempt, err)
			}
			job.report(fmt.Errorf("%w; retrying for up to %s", err, job.config.Retry))
		}
	}
}

// giveUp returns err, the last error of the message in hand, or sends the message to -failed.
// It does not send a message whose command can't be run: that is no message's fault.
func (job *job) giveUp(ctx context.Context, err error) error {
	if job.sender == nil || errors.Is(err, errNotRun) {
		return job.message.wrap(err)
	}
	if sendErr := job.sender.send(ctx, &job.message); sendErr != nil {
		return sendErr
	}
	job.report(fmt.Errorf("%w; sent to topic %s", err, job.config.Failed))
	return nil
}

// report reports err with the id and the topic of the message in hand.
func (job *job) report(err error) {
	job.config.Report(job.message.wrap(err).Error())
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

// validateJobs is the part of Validate about the command.
func (config *Config) validateJobs() error {
	name := ""
	switch {
	case config.Retry != 0:
		name = "-retry"
	case config.Jobs != 0:
		name = "-jobs"
	case config.Persistent:
		name = "-persistent"
	case config.Failed != "":
		name = "-failed"
	}
	switch {
	case name != "" && len(config.Command) == 0:
		return fmt.Errorf("%s without a command: must be with one, after --", name)
	case config.Retry < 0:
		return fmt.Errorf("-retry %s: must be a duration of at least 0, such as 30s", config.Retry)
	case config.Jobs < 0 || config.Jobs > MaxJobs:
		return fmt.Errorf("-jobs %d: must be a number from 1 to %d", config.Jobs, MaxJobs)
	case config.Failed == "" && config.Host+config.Port != "":
		return errors.New("-host or -port without -failed: must be with the topic to send to")
	case config.Failed == "":
		return nil
	case len(config.Topics) == 0 || slices.Contains(config.Topics, config.Failed):
		return fmt.Errorf("-failed %s: must be with -topic, and another topic than it delivers",
			config.Failed)
	}
	if err := apiv1.CheckTopic([]byte(config.Failed)); err != nil {
		return fmt.Errorf("-failed %w", err)
	}
	return config.producerConfig().Validate()
}
