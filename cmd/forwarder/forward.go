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
)

const (
	// The pauses before another session, the shortest and the longest.
	minPause = time.Second
	maxPause = 30 * time.Second

	// saveInterval is how often the place is saved while there is more to send. Saving for
	// each batch would halve the speed.
	saveInterval = 100 * time.Millisecond
)

// awayError is an error of the engine, or of the way to it, after which another session may
// do better. Any other error ends the forwarder.
type awayError struct{ error }

// forwarder carries messages from a log into a stream, as its config says.
type forwarder struct {
	config *config
	report func(format string, arguments ...any)
	client nats.Options
	log    *follow.Follower
	state  *follow.State

	connection *nats.Conn // of the session, as is stream
	stream     jetstream.Stream

	place   *place // nil: there is none yet
	saved   place  // by this process
	savedAt time.Time

	last  uint64 // the stream's last sequence, as far as this process knows
	doubt bool   // the stream may have taken messages beyond place, or may still do so
	limit int    // how many messages are sent as one batch

	failed time.Time // when sending failed; zero: a batch was taken since then
}

// run runs sessions until stop ends, or one has an error that another would not change.
func (forwarder *forwarder) run(stop context.Context) error {
	for stop.Err() == nil {
		err := forwarder.session(stop)
		_, isAway := errors.AsType[awayError](err)
		switch {
		case errors.Is(err, follow.ErrLost): // the next session decides
		case err != nil && !isAway:
			return err
		case stop.Err() == nil:
			forwarder.pause(stop, err)
		}
	}
	return forwarder.save(forwarder.doubt)
}

// pause waits before another session, for as long as sending has failed, within limits. It
// reports the first error.
func (forwarder *forwarder) pause(stop context.Context, err error) {
	if forwarder.failed.IsZero() {
		forwarder.failed = time.Now()
		forwarder.report("%s: %v; trying again", forwarder.config.servers, err)
	}
	select {
	case <-time.After(min(max(time.Since(forwarder.failed), minPause), maxPause)):
	case <-stop.Done():
	}
}

// session connects, finds the place, and forwards, until an error or the end of stop.
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

// away returns the awayError for a call of the client that has failed with err.
func (forwarder *forwarder) away(err error) error {
	if lost := forwarder.connection.LastError(); lost != nil {
		err = fmt.Errorf("disconnected: %w", lost)
	} else if errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", forwarder.config.timeout)
	}
	return awayError{err}
}

// open opens the stream, and checks that it takes what is to come: an older server, or
// another configuration, would store each message of a batch by itself. The error shows the
// command that makes it right.
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
		return fmt.Errorf("stream %s takes no atomic batches, as of nats-server 2.12 and later: "+
			"nats stream edit %s --allow-batch", name, name)
	case config.NoAck:
		return fmt.Errorf("stream %s acknowledges nothing: nats stream edit %s --ack", name, name)
	case !isCovered:
		return fmt.Errorf("stream %s does not take all subjects below -prefix %s: "+
			"nats stream edit %s --subjects '%s,%s>'",
			name, prefix, name, strings.Join(config.Subjects, ","), prefix)
	}
	return nil
}

// forward sends what the log has, and what comes, until stop ends.
func (forwarder *forwarder) forward(stop context.Context) error {
	if err := forwarder.save(true); err != nil { // before anything is sent
		return err
	}
	var current batch
	for stop.Err() == nil {
		err := forwarder.read(&current, maxMessages)
		switch {
		case len(current.messages) > 0: // those before an error too: it comes again
			current, err = forwarder.exchange(&current)
		case err == nil && forwarder.connection.IsClosed():
			err = forwarder.away(nats.ErrConnectionClosed)
		case err == nil:
			forwarder.place.position = current.end
			err = forwarder.save(true)
			forwarder.log.Wait(stop)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// exchange sends a batch, and returns the one after it, which it reads while the answer is
// awaited. The log is durable up to what is sent: otherwise a power loss could leave the
// stream ahead of it.
func (forwarder *forwarder) exchange(current *batch) (next batch, err error) {
	if err := forwarder.log.Sync(); err != nil {
		return next, err
	}
	answer := make(chan error, 1)
	go func() { answer <- forwarder.deliver(current.messages) }()
	if current.size < 2*fullSize { // otherwise memory is for what is larger
		forwarder.read(&next, maxMessages) // the next call returns an error again
		forwarder.log.Sync()               // and so does this
	}
	if time.Since(forwarder.savedAt) > saveInterval {
		err = forwarder.save(true)
	}
	if err := cmp.Or(err, <-answer); err != nil {
		return next, err
	}
	forwarder.place = &place{position: current.end, sequence: forwarder.last, hash: current.hash()}
	forwarder.doubt = false
	return next, nil
}
