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
	// lagPatience is how long find waits for a stream that ends before last. A new leader of a
	// replicated stream may lag for a moment.
	lagPatience = 5 * time.Second

	// logPatience is how long find waits for a log that ends before the stream. It is longer
	// than package follow waits for what is missing of the log.
	logPatience = 15 * time.Second

	// saveInterval is the time between two saves of the place while the log has more
	// messages. A save for each batch would make the forwarder much slower.
	saveInterval = 100 * time.Millisecond
)

// noteFormat is the form of a sequence and a hash in the note of a state. In a state of an earlier
// version two words follow, which have no meaning.
const noteFormat = "sequence %d message %s"

// unknown is a place's hash if the message there is not known.
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
func (forwarder *forwarder) load() error {
	position, note, found := forwarder.state.Load()
	if !found {
		return nil
	}
	place := place{position: position}
	if _, err := fmt.Sscanf(note, noteFormat, &place.sequence, &place.hash); err != nil {
		return fmt.Errorf("%s: the note %q is not a forwarder's%s",
			forwarder.config.state, note, elsewhere)
	}
	forwarder.place = place
	return nil
}

// save saves the place, unless it is the one that was saved last, or interval has not passed
// since then. It syncs the log before: otherwise a power loss could leave the state with a
// position that the log has lost.
func (forwarder *forwarder) save(interval time.Duration) error {
	place := forwarder.place
	if place == forwarder.saved || time.Since(forwarder.savedAt) < interval {
		return nil
	}
	if err := forwarder.log.Sync(); err != nil {
		return err
	}
	note := fmt.Sprintf(noteFormat, place.sequence, place.hash)
	if err := forwarder.state.Save(place.position, note); err != nil {
		return err
	}
	forwarder.saved, forwarder.savedAt = place, time.Now()
	return nil
}

// find reads the log up to the first message that the stream does not have. It compares the
// messages that the stream has beyond the place with those of the log, and moves the place to the
// last one that the stream still has. It returns the place after the last one that the stream has
// or has removed, also with a strayError.
func (forwarder *forwarder) find(stop context.Context) (place, error) {
	deadline := time.Now().Add(lagPatience)
	err := forwarder.look()
	for err == nil && forwarder.end < forwarder.place.sequence && time.Now().Before(deadline) {
		forwarder.log.Wait(stop)
		err = forwarder.look()
	}
	name, end := forwarder.config.stream, forwarder.end
	switch isNew := forwarder.place == (place{}); {
	case err != nil:
		return place{}, err
	case isNew && end > 0:
		return place{}, fmt.Errorf("stream %s ends at %d, but %s has no position%s",
			name, end, forwarder.config.state, elsewhere)
	case isNew:
		forwarder.place.hash = unknown
		return forwarder.place, forwarder.save(0)
	case end < forwarder.place.sequence:
		return forwarder.place, stray("stream %s has lost messages or was recreated: "+
			"it ends at %d, and ended at %d before", name, end, forwarder.place.sequence)
	}
	forwarder.log.Seek(forwarder.place.position)
	if forwarder.place.hash != unknown {
		if _, err := forwarder.compare(forwarder.place); err != nil {
			return forwarder.place, err
		}
	}
	return forwarder.skip(stop, end)
}

// skip is the part of find that reads the messages of the log up to end, and compares them.
func (forwarder *forwarder) skip(stop context.Context, end uint64) (place, error) {
	reached, patience := forwarder.place, time.Now().Add(logPatience)
	for reached.sequence < end {
		next := batch{end: reached}
		err := cmp.Or(forwarder.read(&next, 1), context.Cause(stop))
		switch {
		case err != nil:
			return reached, err
		case len(next.messages) == 0 && time.Now().After(patience):
			return reached, stray("stream %s ends at %d, and the log at %d: somebody else "+
				"publishes to the stream", forwarder.config.stream, end, reached.sequence)
		case len(next.messages) == 0:
			forwarder.log.Wait(stop)
			continue
		}
		isThere, err := forwarder.compare(next.end)
		switch {
		case err == nil && isThere:
			forwarder.place = next.end
			err = forwarder.save(saveInterval)
		case err == nil && !forwarder.unanswered:
			err = stray("message %d of stream %s was removed, and was not sent from the log: "+
				"somebody else publishes to the stream", next.end.sequence, forwarder.config.stream)
		}
		if err != nil {
			return reached, err
		}
		reached, patience = next.end, time.Now().Add(logPatience)
	}
	return reached, nil
}

// compare reports whether the stream still has the message at place. It returns an error if that
// is not the log's.
func (forwarder *forwarder) compare(place place) (isThere bool, err error) {
	stored, err := forwarder.stored(place.sequence)
	if err != nil {
		return false, err
	}
	found := hash(stored)
	if found != place.hash && found != unknown {
		return true, stray("message %d of stream %s, %d bytes for %s, is not the log's: "+
			"somebody else publishes to the stream, or it was recreated",
			place.sequence, forwarder.config.stream, len(stored.Data), stored.Subject)
	}
	return found != unknown, nil
}
