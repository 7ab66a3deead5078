package consumer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// missingPatience is how long a walk through the log waits for a line that the log should have. It
// is longer than a Follower waits for what is missing.
const missingPatience = follow.Patience + 5*time.Second

// Seek sets the state to the place of Config.Seek, and writes a line to Output that says which one
// that is. The error is that of a state that another consumer uses, or says what could not be read
// or saved. After the end of ctx the state stays as it was. A Consumer's Seek must be called only
// once, and without Subscribe.
func (c *Consumer) Seek(ctx context.Context) error {
	config := c.config
	state, err := follow.OpenState(config.State, kind)
	if err != nil {
		return err
	}
	defer state.Close()
	log := follow.New(config.Log, config.Report)
	defer log.Close()
	before, _, found := state.Load()
	if config.Seek == Next && !found {
		return fmt.Errorf("%s: has no position yet: -seek start or end sets one", config.State)
	}
	place, err := placeOf(ctx, log, config.Seek, before)
	if err != nil {
		return err
	}
	if config.Seek == Next && place == before {
		_, err := fmt.Fprintf(config.Output, "%s: is not lost, and stays at %v\n",
			config.State, place)
		return err
	}
	log.Seek(place)
	if _, err := log.Next(); err != nil { // opens the file of the place, for Sync
		return err
	}
	if err := log.Sync(); err != nil {
		return err
	}
	if err := state.Save(place, ""); err != nil {
		return err
	}
	_, err = fmt.Fprintf(config.Output, "%s: is set to %v\n", config.State, place)
	return err
}

// placeOf returns the place of log that seek names. before is the position until now.
func placeOf(
	ctx context.Context, log *follow.Follower, seek string, before follow.Position,
) (follow.Position, error) {
	switch seek {
	case Start:
		return log.Start()
	case End:
		return endOf(log)
	case Next:
		return log.Recover(before)
	}
	return since(ctx, log, stampOf(seek))
}

// endOf returns the position after the last line of log. If there is no log yet, it is the zero
// Position.
func endOf(log *follow.Follower) (follow.Position, error) {
	position, err := log.End()
	if errors.Is(err, fs.ErrNotExist) {
		return follow.Position{}, nil
	}
	return position, err
}

// since returns the position before the first line of log whose time stamp is stamp or later. If
// there is none, it is the end of the log.
func since(ctx context.Context, log *follow.Follower, stamp string) (follow.Position, error) {
	end, err := endOf(log)
	if err != nil {
		return follow.Position{}, err
	}
	log.Seek(follow.Position{})
	for line, err := range lines(ctx, log, end) {
		if err != nil {
			return follow.Position{}, err
		}
		if isSince(line, stamp) {
			return log.Before()
		}
	}
	return end, nil
}

// isSince reports whether line has a time stamp that is stamp or later. A line without its end
// does not count: it is torn.
func isSince(line []byte, stamp string) bool {
	return line[len(line)-1] == '\n' && string(logline.StampOf(line)) >= stamp
}

// lines returns the lines of log from its position to end. The last element may be an error. After
// the end of ctx, the error is its cause.
func lines(
	ctx context.Context, log *follow.Follower, end follow.Position,
) iter.Seq2[[]byte, error] {
	return func(yield func(line []byte, err error) bool) {
		for last := time.Now(); end != (follow.Position{}) && !log.At(end); {
			line, err := log.Next()
			switch {
			case err != nil:
			case ctx.Err() != nil:
				err = context.Cause(ctx)
			case line != nil:
				last = time.Now()
			case time.Since(last) > missingPatience:
				err = errors.New("the log has fewer lines than it had a moment ago")
			default:
				log.Wait(ctx)
				continue
			}
			if !yield(line, err) || err != nil {
				return
			}
		}
	}
}

// hint adds to the error of a lost position how to go on without what is missing.
func (c *Consumer) hint(err error) error {
	switch {
	case !errors.As(err, new(*follow.LostError)):
		return err
	case c.config.State == "":
		return fmt.Errorf("%w: a consumer with -state can pass over it, by -seek next", err)
	}
	return fmt.Errorf("%w: -seek next, start or end must set the state first", err)
}
