package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"mbus/internal/shared/follow"
)

// What an operator can do about an error of the stream's content or of the position in the log.
const (
	seekStartOrEnd = ": use -seek start to send the whole log, " +
		"or -seek end to send only new messages"
	seekAny = ": use -seek here to send the rest of the log, -seek start to send all of it, " +
		"or -seek end to send only new messages"
)

// strayError says which messages the stream has that are not the log's, or that it has lost some.
type strayError struct{ error }

// stray returns a strayError with what an operator can do about it.
func stray(format string, arguments ...any) error {
	return strayError{fmt.Errorf(format+seekAny, arguments...)}
}

// next returns the next line of the log. If the position is lost, the error says what an operator
// can do about it.
func (f *forwarder) next() (line []byte, err error) {
	line, err = f.log.Next()
	if errors.As(err, new(*follow.LostError)) {
		err = fmt.Errorf("%w%s", err, seekStartOrEnd)
	}
	return line, err
}

// seek sets the state to the place of the log that -seek says, and to the stream's end. It prints
// them on stdout.
func (f *forwarder) seek(stop context.Context, stdout io.Writer) (err error) {
	if f.connection, err = f.options.Connect(); err != nil {
		return fmt.Errorf("%s: %w", f.config.servers, err)
	}
	defer f.connection.Close()
	if err := f.look(); err != nil {
		return err
	}
	switch f.config.seek {
	case "start":
		f.place.position, err = f.log.Start()
	case "end":
		f.place.position, err = f.log.End()
		if errors.Is(err, fs.ErrNotExist) { // without a log, this is its start
			err = nil
		}
	case "here":
		err = f.here(stop)
	}
	if err != nil {
		return err
	}
	last, err := f.stored(f.end)
	if err != nil {
		return err
	}
	f.place.sequence, f.place.hash = f.end, hash(last)
	f.log.Seek(f.place.position)
	if _, err := f.next(); err != nil { // so that save syncs the log up to there
		return err
	}
	if err := f.save(0); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s continues at %v, and after message %d of stream %s\n",
		f.config.state, f.place.position, f.end, f.config.stream)
	return err
}

// here advances the place from the one in the state past each message of the log that the stream
// has, until the first that it does not have.
func (f *forwarder) here(stop context.Context) error {
	if err := f.load(); err != nil {
		return err
	}
	if _, err := f.log.End(); err != nil { // there must be a log
		return err
	}
	position := f.place.position
	found, err := f.log.Recover(position)
	if err == nil && found != position {
		err = fmt.Errorf("%w%s", &follow.LostError{Log: f.config.log, Position: position,
			Why: "the log does not have it"}, seekStartOrEnd)
	}
	if err != nil {
		return err
	}
	reached, err := f.find(stop)
	if err != nil && !errors.As(err, new(strayError)) {
		return err
	}
	if first := f.place.sequence + 1; first <= reached.sequence {
		return fmt.Errorf("stream %s has removed its messages %d to %d, which may be the log's%s",
			f.config.stream, first, reached.sequence, seekStartOrEnd)
	}
	return nil
}
