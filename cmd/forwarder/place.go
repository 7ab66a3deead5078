package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"mbus/internal/shared/follow"
)

const (
	// lagPatience is how long find waits for a stream that ends before the place. A new leader of
	// a replicated stream may lag for a moment.
	lagPatience = 5 * time.Second

	// lookInterval is the time between two looks at such a stream.
	lookInterval = 200 * time.Millisecond

	// logPatience is how long find waits for a log that ends before the stream. It is longer
	// than package follow waits for what is missing of the log.
	logPatience = follow.Patience + 5*time.Second

	// saveInterval is the time between two saves of the place while the log has more
	// messages. A save for each batch would make the forwarder much slower.
	saveInterval = 100 * time.Millisecond
)

// noteFormat is the form of a sequence and a hash in the note of a state. In a state of an earlier
// version two words follow, which are ignored.
const noteFormat = "sequence %d message %s"

// unknown is a place's hash if there is no message, the stream has removed it, or an earlier
// version did not look at it.
const unknown = "unknown"

// place is where the log and the stream agree: the messages of the log after position are those
// of the stream after sequence.
type place struct {
	position follow.Position
	sequence uint64
	hash     string // of the message at sequence, or unknown
}

// hash returns the hash of a message: half the SHA-256, in hexadecimal, of its subject, a
// zero byte, and its data. Without a subject there is no message, and its hash is unknown.
func hash(message *nats.Msg) string {
	if message.Subject == "" {
		return unknown
	}
	whole := sha256.New()
	whole.Write(append([]byte(message.Subject), 0))
	whole.Write(message.Data)
	return hex.EncodeToString(whole.Sum(nil)[:sha256.Size/2])
}

// load sets the place to the one in the state, if there is one.
func (f *forwarder) load() error {
	position, note, found := f.state.Load()
	if !found {
		return nil
	}
	f.place.position = position
	if _, err := fmt.Sscanf(note, noteFormat, &f.place.sequence, &f.place.hash); err != nil {
		return fmt.Errorf("%s: the note %q is not a forwarder's%s",
			f.config.state, note, seekStartOrEnd)
	}
	return nil
}

// save saves the place, unless it is the one that was saved last, or interval has not passed
// since that save. It syncs the log first: otherwise a power loss could leave the state with a
// position that the log has lost.
func (f *forwarder) save(interval time.Duration) error {
	if f.place == f.saved || time.Since(f.savedAt) < interval {
		return nil
	}
	if err := f.log.Sync(); err != nil {
		return err
	}
	note := fmt.Sprintf(noteFormat, f.place.sequence, f.place.hash)
	if err := f.state.Save(f.place.position, note); err != nil {
		return err
	}
	f.saved, f.savedAt = f.place, time.Now()
	return nil
}

// find compares the messages that the stream has after the place with those of the log, and
// advances the place past each one that is the same. It returns the place up to which it has found
// no difference, also with a strayError. If that is later than f.place, the stream has removed the
// messages between them.
func (f *forwarder) find(stop context.Context) (place, error) {
	deadline := time.Now().Add(lagPatience)
	err := f.look()
	for err == nil && f.end < f.place.sequence && time.Now().Before(deadline) {
		select {
		case <-time.After(lookInterval):
			err = f.look()
		case <-stop.Done():
			err = context.Cause(stop)
		}
	}
	name := f.config.stream
	switch isNew := f.place == (place{}); {
	case err != nil:
		return place{}, err
	case isNew && f.end > 0:
		return place{}, fmt.Errorf("stream %s ends at %d, but %s has no position%s",
			name, f.end, f.config.state, seekStartOrEnd)
	case isNew:
		f.place.hash = unknown
		return f.place, f.save(0)
	case f.end < f.place.sequence:
		return f.place, stray("stream %s has lost messages or was recreated: "+
			"it ends at %d, and ended at %d before", name, f.end, f.place.sequence)
	}
	f.log.Seek(f.place.position)
	if f.place.hash != unknown {
		if _, err := f.compare(f.place); err != nil {
			return f.place, err
		}
	}
	return f.skip(stop)
}

// skip is the part of find that compares messages, up to the stream's end.
func (f *forwarder) skip(stop context.Context) (place, error) {
	reached, deadline := f.place, time.Now().Add(logPatience)
	for reached.sequence < f.end {
		next := batch{end: reached}
		err := cmp.Or(f.read(&next, 1), context.Cause(stop))
		switch {
		case err != nil:
			return reached, err
		case len(next.messages) == 0 && time.Now().After(deadline):
			return reached, stray("stream %s ends at %d, and the log at %d: somebody else "+
				"publishes to the stream", f.config.stream, f.end, reached.sequence)
		case len(next.messages) == 0:
			f.log.Wait(stop)
			continue
		}
		next.messages = nil // compare needs the memory
		isThere, err := f.compare(next.end)
		switch {
		case err == nil && isThere:
			f.place = next.end
			err = f.save(saveInterval)
		case err == nil && !f.unanswered:
			err = stray("message %d of stream %s was removed, and was not sent from the log: "+
				"somebody else publishes to the stream", next.end.sequence, f.config.stream)
		}
		if err != nil {
			return reached, err
		}
		reached, deadline = next.end, time.Now().Add(logPatience)
	}
	return reached, nil
}

// compare reports whether the stream still has the message at a place. It returns a strayError if
// the stream's message has another hash.
func (f *forwarder) compare(at place) (isThere bool, err error) {
	stored, err := f.stored(at.sequence)
	if err != nil {
		return false, err
	}
	found := hash(stored)
	if found != at.hash && found != unknown {
		return true, stray("message %d of stream %s, %d bytes for %s, is not the log's: "+
			"somebody else publishes to the stream, or it was recreated",
			at.sequence, f.config.stream, len(stored.Data), stored.Subject)
	}
	return found != unknown, nil
}
