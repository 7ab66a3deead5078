package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

const (
	// minPause and maxPause limit the pause after a session that failed.
	minPause = time.Second
	maxPause = 30 * time.Second

	// saveInterval is the time between two saves of the place while the log has more
	// messages. A save for each batch would make the forwarder much slower.
	saveInterval = 100 * time.Millisecond
)

// awayError is an error of the engine or of the network. Another session may succeed after
// it. Any other error ends the forwarder.
type awayError struct{ error }

// forwarder sends the messages of a log to a stream. It works in sessions. Each session makes a
// new connection, reads the stream's end, skips the messages that the stream has, and sends the
// others until an error ends the session.
type forwarder struct {
	config *config
	report func(format string, arguments ...any)
	client nats.Options
	log    *follow.Follower
	parser logline.Parser
	state  *follow.State

	connection *nats.Conn       // of this session
	stream     jetstream.Stream // of this session

	place   *place // nil: there is none yet
	saved   place  // the last one that this process saved
	savedAt time.Time

	last  uint64 // the last sequence of the stream that this process knows
	doubt bool   // the stream may have messages of the log beyond last, or may still store them
	limit int    // messages in one batch, at most

	failed time.Time // the first error since the last acknowledgement; zero: none
}

// run runs sessions until stop ends, or until an error that another session would repeat.
func (forwarder *forwarder) run(stop context.Context) error {
	for stop.Err() == nil {
		err := forwarder.session(stop)
		_, isAway := errors.AsType[awayError](err)
		switch {
		case errors.As(err, new(*follow.LostError)):
			return fmt.Errorf("%w: without %s, -from start sends the whole log, "+
				"and -from end only new messages", err, forwarder.config.state)
		case err != nil && !isAway:
			return err
		case stop.Err() == nil:
			forwarder.pause(stop, err)
		}
	}
	return forwarder.save(false, 0)
}

// pause waits before the next session: for the time since the first error, between minPause
// and maxPause. It reports only the first error.
func (forwarder *forwarder) pause(stop context.Context, err error) {
	if forwarder.failed.IsZero() {
		forwarder.failed = time.Now()
		forwarder.report("%s: %v; retrying", forwarder.config.servers, err)
	}
	select {
	case <-time.After(min(max(time.Since(forwarder.failed), minPause), maxPause)):
	case <-stop.Done():
	}
}

// session connects, finds the place, and forwards until an error or the end of stop.
func (forwarder *forwarder) session(stop context.Context) (err error) {
	if forwarder.connection, err = forwarder.client.Connect(); err != nil {
		return awayError{err}
	}
	defer forwarder.connection.Close()
	if err := forwarder.open(stop); err != nil {
		return err
	}
	if err := forwarder.find(stop); err != nil {
		return err
	}
	return forwarder.forward(stop)
}

// away returns the awayError for err, which a call of the client returned.
func (forwarder *forwarder) away(err error) error {
	if lost := forwarder.connection.LastError(); lost != nil {
		err = fmt.Errorf("disconnected: %w", lost)
	} else if errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", forwarder.config.timeout)
	}
	return awayError{err}
}

// open opens the stream, and checks its configuration. The error shows the command that
// corrects it. Without AllowAtomicPublish, or with a server older than 2.12, the stream would
// store each message of a batch by itself. To read the stream's end again, the forwarder calls
// open again: the client's Stream.Info panics if a hostile answer lists subjects.
func (forwarder *forwarder) open(stop context.Context) error {
	name, prefix := forwarder.config.stream, forwarder.config.prefix
	timeout := jetstream.WithDefaultTimeout(forwarder.config.timeout)
	engine, err := jetstream.New(forwarder.connection, timeout)
	if err != nil {
		return err
	}
	forwarder.stream, err = engine.Stream(stop, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("there is no stream %s: "+
			"nats stream add %s --subjects '%s>' --allow-batch --defaults", name, name, prefix)
	}
	if err != nil {
		return forwarder.away(err)
	}
	config := forwarder.stream.CachedInfo().Config
	isCovered := slices.ContainsFunc(config.Subjects, func(pattern string) bool {
		return covers(pattern, prefix)
	})
	switch {
	case !config.AllowAtomicPublish:
		return fmt.Errorf("stream %s takes no atomic batches, "+
			"which need nats-server 2.12 or later: nats stream edit %s --allow-batch", name, name)
	case config.NoAck:
		return fmt.Errorf("stream %s acknowledges nothing: nats stream edit %s --ack", name, name)
	case !isCovered:
		return fmt.Errorf("stream %s does not take all subjects below -prefix %s: "+
			"correct the prefix, or nats stream edit %s --subjects '%s,%s>'",
			name, prefix, name, strings.Join(config.Subjects, ","), prefix)
	}
	return nil
}

// forward sends the messages of the log, and waits for more, until stop ends.
func (forwarder *forwarder) forward(stop context.Context) error {
	if err := forwarder.save(true, 0); err != nil { // must be pending before a message is sent
		return err
	}
	var current batch
	for stop.Err() == nil {
		err := forwarder.read(&current, maxMessages)
		switch {
		case len(current.messages) > 0: // an error can wait: the next read returns it again
			current, err = forwarder.exchange(&current)
		case err == nil && forwarder.connection.IsClosed():
			err = forwarder.away(nats.ErrConnectionClosed)
		case err == nil:
			forwarder.place.position = current.end
			err = forwarder.save(true, 0)
			forwarder.log.Wait(stop)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// exchange sends a batch. While it waits for the answer, it reads the next batch, which it
// returns. It syncs the log before it sends the batch: otherwise a power loss could leave the
// stream with messages that the log has lost.
func (forwarder *forwarder) exchange(current *batch) (next batch, err error) {
	if err := forwarder.log.Sync(); err != nil {
		return next, err
	}
	answer := make(chan error, 1)
	go func() { answer <- forwarder.deliver(current.messages) }()
	if !current.isLarge() {
		forwarder.read(&next, maxMessages) // forward's next read returns an error again
	}
	if err := cmp.Or(forwarder.save(true, saveInterval), <-answer); err != nil {
		return next, err
	}
	forwarder.place = &place{position: current.end, sequence: forwarder.last, hash: current.hash()}
	return next, nil
}
