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

// stray returns a strayError with what an operator can do about it.
func stray(format string, arguments ...any) error {
	return strayError{fmt.Errorf(format+anywhere, arguments...)}
}

// next returns the next line of the log. If the position is lost, the error says what an operator
// can do about it.
func (forwarder *forwarder) next() (line []byte, err error) {
	line, err = forwarder.log.Next()
	if errors.As(err, new(*follow.LostError)) {
		err = fmt.Errorf("%w%s", err, elsewhere)
	}
	return line, err
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
	switch forwarder.config.seek {
	case "start":
		forwarder.place.position, err = forwarder.log.Start()
	case "end":
		forwarder.place.position, err = forwarder.log.End()
		if errors.Is(err, fs.ErrNotExist) { // without a log, this is its start
			err = nil
		}
	case "here":
		err = forwarder.here(stop)
	}
	if err != nil {
		return err
	}
	last, err := forwarder.stored(forwarder.end)
	if err != nil {
		return err
	}
	forwarder.place.sequence, forwarder.place.hash = forwarder.end, hash(last)
	forwarder.log.Seek(forwarder.place.position)
	if _, err := forwarder.next(); err != nil { // so that save syncs the log up to there
		return err
	}
	if err := forwarder.save(0); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s continues at %v, and after message %d of stream %s\n",
		forwarder.config.state, forwarder.place.position, forwarder.end, forwarder.config.stream)
	return nil
}

// here moves the place to the last message that the stream has in a row from the place in the
// state.
func (forwarder *forwarder) here(stop context.Context) error {
	if err := forwarder.load(); err != nil {
		return err
	}
	if _, err := forwarder.log.End(); err != nil { // there must be a log
		return err
	}
	position := forwarder.place.position
	found, err := forwarder.log.Recover(position)
	if err == nil && found != position {
		err = fmt.Errorf("%w%s", &follow.LostError{Log: forwarder.config.log, Position: position,
			Why: "the log does not have it"}, elsewhere)
	}
	if err != nil {
		return err
	}
	reached, err := forwarder.find(stop)
	if err != nil && !errors.As(err, new(strayError)) {
		return err
	}
	if first := forwarder.place.sequence + 1; first <= reached.sequence {
		return fmt.Errorf("stream %s has removed its messages %d to %d, which may be the log's%s",
			forwarder.config.stream, first, reached.sequence, elsewhere)
	}
	return nil
}
