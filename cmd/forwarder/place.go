package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/follow"
)

// lagPatience is how long the stream may be behind the state, or the log behind the stream,
// before one of them must have lost something. A new leader of a replicated stream may be
// behind for a moment.
const lagPatience = 5 * time.Second

// noteFormat is the form of the note that a state has of a place.
const noteFormat = "sequence %d message %s pending %t"

// unknown is the hash of a message that is not known.
const unknown = "unknown"

// place is where the log and the stream agree: the stream's messages up to sequence are
// those of the log up to position.
type place struct {
	position follow.Position
	sequence uint64
	hash     string // of the message at sequence; or unknown
	pending  bool   // beyond it, the stream may have taken messages, or may still do so
}

// hash returns half the SHA-256, in hexadecimal, of a message: of its subject, a zero byte,
// and its data.
func hash(subject string, data []byte) string {
	whole := sha256.New()
	whole.Write(append([]byte(subject), 0))
	whole.Write(data)
	return hex.EncodeToString(whole.Sum(nil)[:sha256.Size/2])
}

// note returns what a state keeps of place beside the position.
func (place *place) note() string {
	return fmt.Sprintf(noteFormat, place.sequence, place.hash, place.pending)
}

// load takes the place from the state, if that has one.
func (forwarder *forwarder) load() error {
	position, note, found := forwarder.state.Load()
	if !found {
		return nil
	}
	place := &place{position: position}
	fmt.Sscanf(note, noteFormat, &place.sequence, &place.hash, &place.pending)
	if note != place.note() {
		return fmt.Errorf("%s: the note %q is not a forwarder's", forwarder.config.state, note)
	}
	forwarder.place, forwarder.last, forwarder.doubt = place, place.sequence, place.pending
	return nil
}

// save saves the place, if it is not what was saved last. The log is made durable before:
// otherwise a power loss could take from it what the state has passed.
func (forwarder *forwarder) save(pending bool) error {
	if forwarder.place == nil {
		return nil
	}
	place := *forwarder.place
	place.pending = pending
	if place == forwarder.saved {
		return nil
	}
	if err := forwarder.log.Sync(); err != nil {
		return err
	}
	if err := forwarder.state.Save(place.position, place.note()); err != nil {
		return err
	}
	forwarder.saved, forwarder.savedAt = place, time.Now()
	return nil
}

// find goes to the first message of the log that the stream does not have. It compares
// those that the stream has beyond the place.
func (forwarder *forwarder) find(stop context.Context) error {
	info, err := forwarder.stream.Info(stop)
	deadline := time.Now().Add(lagPatience)
	for err == nil && info.State.LastSeq < forwarder.last && time.Now().Before(deadline) {
		forwarder.log.Wait(stop)
		info, err = forwarder.stream.Info(stop)
	}
	if err != nil {
		return forwarder.away(err)
	}
	place, end := forwarder.place, info.State.LastSeq
	switch {
	case place == nil:
		return forwarder.begin(end, nil)
	case end < forwarder.last:
		return forwarder.begin(end, fmt.Errorf("stream %s has lost messages or was made anew: "+
			"it ends at %d, and had %d", forwarder.config.stream, end, forwarder.last))
	}
	if err := forwarder.log.Seek(place.position); errors.Is(err, follow.ErrLost) {
		return forwarder.begin(end, err)
	} else if err != nil {
		return err
	}
	if place.hash != unknown {
		if err := forwarder.compare(stop, place); err != nil {
			return err
		}
	}
	return forwarder.skip(stop, end)
}

// begin makes a place where -from says, with the stream ending at end. There is none yet,
// or lost says why it is of no use.
func (forwarder *forwarder) begin(end uint64, lost error) error {
	config := forwarder.config
	if lost == nil && end > 0 {
		lost = fmt.Errorf("stream %s ends at %d, and %s knows nothing of it",
			config.stream, end, config.state)
	}
	switch {
	case lost != nil && config.from == "":
		return fmt.Errorf("%v: -from start must say to send the log again, "+
			"or -from end what comes now", lost)
	case lost != nil:
		forwarder.report("%v: going on from the %s of the log", lost, config.from)
	}
	var err error
	if config.from == "end" {
		err = forwarder.log.SeekEnd()
	} else {
		err = forwarder.log.Seek(follow.Position{})
	}
	forwarder.place = &place{position: forwarder.log.Position(), sequence: end, hash: unknown}
	forwarder.last, forwarder.doubt = end, false
	return err
}

// skip passes the messages of the log that the stream has up to end.
func (forwarder *forwarder) skip(stop context.Context, end uint64) error {
	patience := time.Now().Add(lagPatience)
	for forwarder.place.sequence < end && stop.Err() == nil {
		sequence := forwarder.place.sequence + 1
		var batch batch
		if err := forwarder.read(&batch, 1); err != nil {
			return err
		}
		switch {
		case len(batch.messages) > 0:
			patience = time.Now().Add(lagPatience)
		case time.Now().After(patience):
			return fmt.Errorf("stream %s ends at %d, and the log at %d: somebody else publishes to it",
				forwarder.config.stream, end, sequence-1)
		default:
			forwarder.log.Wait(stop)
			continue
		}
		place := &place{position: batch.end, sequence: sequence, hash: batch.hash()}
		batch.messages = nil // a large one makes room for the stream's
		if err := forwarder.compare(stop, place); err != nil {
			return err
		}
		forwarder.place = place
		if time.Since(forwarder.savedAt) > saveInterval {
			if err := forwarder.save(forwarder.doubt); err != nil {
				return err
			}
		}
	}
	forwarder.last = end
	return nil
}

// compare returns an error unless the stream's message at place is the log's. The stream may
// have removed it, but not if it can't have been sent.
func (forwarder *forwarder) compare(stop context.Context, place *place) error {
	name := fmt.Sprintf("message %d of stream %s", place.sequence, forwarder.config.stream)
	// So the leader is asked: other replicas may not have the last messages yet.
	forwarder.stream.CachedInfo().Config.AllowDirect = false
	stored, err := forwarder.stream.GetMsg(stop, place.sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		if place.sequence > forwarder.place.sequence && !forwarder.doubt {
			return fmt.Errorf("%s was removed, and was not sent from the log: "+
				"somebody else publishes to it", name)
		}
	case err != nil:
		return forwarder.away(err)
	case hash(stored.Subject, stored.Data) != place.hash:
		return fmt.Errorf("%s, %d bytes for %s, is not the log's: "+
			"somebody else publishes to the stream, or it was made anew",
			name, len(stored.Data), stored.Subject)
	}
	return nil
}
