package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/follow"
)

// lagPatience is how long the stream may be behind the state, or the log behind the stream,
// before one of them must have lost something. A new leader of a replicated stream may be
// behind for a moment.
const lagPatience = 5 * time.Second

// place is where the log and the stream agree: the stream's messages up to sequence are
// those of the log up to position.
type place struct {
	position follow.Position
	sequence uint64
	hash     digest // of the message at sequence; zero: not known
	pending  bool   // beyond it, the stream may have taken messages, or may still do so
}

// digest is half the SHA-256 of a message: of its subject, a zero byte, and its data.
type digest [sha256.Size / 2]byte

func digestOf(subject string, data []byte) (half digest) {
	whole := sha256.New()
	whole.Write(append([]byte(subject), 0))
	whole.Write(data)
	copy(half[:], whole.Sum(nil))
	return half
}

// note returns what a state keeps of place beside the position.
func (place place) note() string {
	note := fmt.Sprintf("sequence %d message %x", place.sequence, place.hash)
	if place.pending {
		note += " pending"
	}
	return note
}

// load takes the place from the state, if that has one.
func (forwarder *forwarder) load() error {
	position, note, found := forwarder.state.Load()
	if !found {
		return nil
	}
	place := &place{position: position, pending: strings.HasSuffix(note, " pending")}
	var hash []byte
	fmt.Sscanf(note, "sequence %d message %x", &place.sequence, &hash)
	copy(place.hash[:], hash)
	if note != place.note() {
		return fmt.Errorf("the note %q is not a forwarder's", note)
	}
	forwarder.place, forwarder.last, forwarder.doubt = place, place.sequence, place.pending
	return nil
}

// save saves the place, if it is not what was saved last. The log is made durable before:
// otherwise a power loss could take from it what the state has passed.
func (forwarder *forwarder) save(pending bool) error {
	forwarder.savedAt = time.Now()
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
	forwarder.saved = place
	return nil
}

// find goes to the first message of the log that the stream does not have. It compares
// those that the stream has beyond the place.
func (forwarder *forwarder) find(stop context.Context) error {
	end, err := forwarder.end(stop)
	if err != nil {
		return err
	}
	place := forwarder.place
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
	if place.hash != (digest{}) {
		if err := forwarder.compare(stop, place.sequence, place.hash); err != nil {
			return err
		}
	}
	return forwarder.skip(stop, end)
}

// end returns the stream's last sequence. If that is behind what is known, it waits a
// moment.
func (forwarder *forwarder) end(stop context.Context) (uint64, error) {
	for deadline := time.Now().Add(lagPatience); ; forwarder.log.Wait(stop) {
		info, err := forwarder.stream.Info(stop)
		if err != nil {
			return 0, forwarder.away(err)
		}
		if info.State.LastSeq >= forwarder.last || time.Now().After(deadline) {
			return info.State.LastSeq, nil
		}
	}
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
	forwarder.place = &place{position: forwarder.log.Position(), sequence: end}
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
		hash := batch.hash()
		batch.messages = nil // a large one makes room for the stream's
		if err := forwarder.compare(stop, sequence, hash); err != nil {
			return err
		}
		forwarder.place = &place{position: batch.end, sequence: sequence, hash: hash}
		if time.Since(forwarder.savedAt) > saveInterval {
			if err := forwarder.save(forwarder.doubt); err != nil {
				return err
			}
		}
	}
	forwarder.last = end
	return nil
}

// compare returns an error unless the stream has the log's message at sequence. It may have
// removed it, but not if nothing can have been sent with this sequence.
func (forwarder *forwarder) compare(stop context.Context, sequence uint64, want digest) error {
	name := fmt.Sprintf("message %d of stream %s", sequence, forwarder.config.stream)
	// So the leader is asked: other replicas may not have the last messages yet.
	forwarder.stream.CachedInfo().Config.AllowDirect = false
	stored, err := forwarder.stream.GetMsg(stop, sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		if sequence > forwarder.place.sequence && !forwarder.doubt {
			return fmt.Errorf("%s was removed, and was not sent from the log: "+
				"somebody else publishes to it", name)
		}
	case err != nil:
		return forwarder.away(err)
	case digestOf(stored.Subject, stored.Data) != want:
		return fmt.Errorf("%s, %d bytes for %s, is not the log's: somebody else publishes to the stream, "+
			"or it was made anew", name, len(stored.Data), stored.Subject)
	}
	return nil
}
