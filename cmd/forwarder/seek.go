package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"mbus/internal/shared/follow"
)

// What an operator can do about an error of the stream's content, or of the position in the log.
const (
	elsewhere = ": use -seek start to send the whole log, or -seek end to send only new messages"
	anywhere  = ": use -seek here to send the rest of the log, -seek start to send all of it, " +
		"or -seek end to send only new messages"
)

// strayError says what the stream has that is not from the log, or what it has lost.
type strayError struct{ error }

// stray returns a strayError.
func stray(format string, arguments ...any) error {
	return strayError{fmt.Errorf(format, arguments...)}
}

// advise returns err, an error that ends the forwarder, with what an operator can do about it.
func advise(err error) error {
	switch {
	case errors.As(err, new(*follow.LostError)):
		return fmt.Errorf("%w%s", err, elsewhere)
	case errors.As(err, new(strayError)):
		return fmt.Errorf("%w%s", err, anywhere)
	}
	return err
}

// seek sets the state to the place of the log that -seek says, and to the stream's end. It says so
// on stdout.
func (forwarder *forwarder) seek(stop context.Context, stdout io.Writer) (err error) {
	if forwarder.connection, err = forwarder.client.Connect(); err != nil {
		return fmt.Errorf("%s: %w", forwarder.config.servers, err)
	}
	defer forwarder.connection.Close()
	if err := forwarder.look(); err != nil {
		return err
	}
	var next place
	switch forwarder.config.seek {
	case "start":
		next.position, err = forwarder.log.Start()
	case "end":
		next.position, err = forwarder.log.End()
		if errors.Is(err, fs.ErrNotExist) { // without a log, this is its start
			err = nil
		}
	case "here":
		next.position, err = forwarder.here(stop)
	}
	if err != nil {
		return err
	}
	next.sequence = forwarder.end()
	last, err := forwarder.stored(next.sequence)
	if err != nil {
		return err
	}
	next.hash = hash(last)
	forwarder.log.Seek(next.position)
	if _, err := forwarder.log.Next(); err != nil { // so that save syncs the log up to there
		return err
	}
	forwarder.place = next
	if err := forwarder.save(0); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s continues at %v, and after message %d of stream %s\n",
		forwarder.config.state, next.position, next.sequence, forwarder.config.stream)
	return nil
}

// here returns the position in the log after the last message that the stream has in a row from
// the place in the state.
func (forwarder *forwarder) here(stop context.Context) (none follow.Position, err error) {
	if err := forwarder.load(); err != nil {
		return none, err
	}
	if forwarder.place == (place{}) {
		return none, fmt.Errorf("%s has no position%s", forwarder.config.state, elsewhere)
	}
	if _, err := forwarder.log.End(); err != nil { // there must be a log
		return none, err
	}
	position := forwarder.place.position
	found, err := forwarder.log.Recover(position)
	if err != nil {
		return none, err
	}
	if found != position {
		return none, advise(&follow.LostError{Log: forwarder.config.log, Position: position,
			Why: "the log does not have it"})
	}
	reached, err := forwarder.find(stop)
	switch first := forwarder.place.sequence + 1; {
	case err != nil && !errors.As(err, new(strayError)):
		return none, advise(err)
	case first <= reached.sequence:
		return none, fmt.Errorf("stream %s has removed its messages %d to %d, which may be the "+
			"log's%s", forwarder.config.stream, first, reached.sequence, elsewhere)
	}
	return forwarder.place.position, nil
}
