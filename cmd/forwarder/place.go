package main

import (
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
		return final(err)
	}
	if err := forwarder.state.Save(place.position, place.note()); err != nil {
		return final(err)
	}
	forwarder.saved = place
	return nil
}

// find goes to the first message of the log that the stream does not have. It compares
// those that the stream has beyond the place.
func (session *session) find() error {
	end, err := session.end()
	if err != nil {
		return err
	}
	place := session.place
	switch {
	case place == nil:
		return session.begin(end, nil)
	case end < session.last:
		return session.begin(end, fmt.Errorf("stream %s has lost messages or was made anew: "+
			"it ends at %d, and had %d", session.config.stream, end, session.last))
	}
	if err := session.log.Seek(place.position); errors.Is(err, follow.ErrLost) {
		return session.begin(end, err)
	} else if err != nil {
		return final(err)
	}
	if place.hash != (digest{}) {
		if err := session.compare(place.sequence, place.hash); err != nil {
			return err
		}
	}
	return session.skip(end)
}

// end returns the stream's last sequence. If that is behind what is known, it waits a
// moment.
func (session *session) end() (uint64, error) {
	for deadline := time.Now().Add(lagPatience); ; session.log.Wait(session.ctx) {
		info, err := session.stream.Info(session.ctx)
		if err != nil {
			return 0, fmt.Errorf("stream %s: %w", session.config.stream, err)
		}
		if info.State.LastSeq >= session.last || time.Now().After(deadline) {
			return info.State.LastSeq, nil
		}
	}
}

// begin makes a place where -from says, with the stream ending at end. There is none yet,
// or lost says why it is of no use.
func (session *session) begin(end uint64, lost error) error {
	config := session.config
	if lost == nil && end > 0 {
		lost = fmt.Errorf("stream %s ends at %d, and %s knows nothing of it",
			config.stream, end, config.state)
	}
	switch {
	case lost != nil && config.from == "":
		return finalf("%w: -from start must say to send the log again, "+
			"or -from end what comes now", lost)
	case lost != nil:
		session.report(fmt.Sprintf("%v: going on from the %s of the log", lost, config.from))
	}
	var err error
	if config.from == "end" {
		err = session.log.SeekEnd()
	} else {
		err = session.log.Seek(follow.Position{})
	}
	session.place = &place{position: session.log.Position(), sequence: end}
	session.last, session.doubt = end, false
	session.saved = place{} // it is to be saved before anything is sent
	return final(err)
}

// skip passes the messages of the log that the stream has up to end.
func (session *session) skip(end uint64) error {
	patience := time.Now().Add(lagPatience)
	for session.place.sequence < end {
		sequence := session.place.sequence + 1
		var batch batch
		if err := session.read(&batch, 1); err != nil {
			return err
		}
		switch {
		case len(batch.messages) > 0:
			patience = time.Now().Add(lagPatience)
		case time.Now().After(patience):
			return finalf("stream %s ends at %d, and the log at %d: somebody else publishes to it",
				session.config.stream, end, sequence-1)
		default:
			session.log.Wait(session.ctx)
			continue
		}
		hash := batch.hash()
		batch.messages = nil // a large one makes room for the stream's
		if err := session.compare(sequence, hash); err != nil {
			return err
		}
		session.place = &place{position: batch.end, sequence: sequence, hash: hash}
		if time.Since(session.savedAt) > saveInterval {
			if err := session.save(session.doubt); err != nil {
				return err
			}
		}
	}
	session.last = end
	return nil
}

// compare returns an error unless the stream has the log's message at sequence. It may have
// removed it, but not if nothing can have been sent with this sequence.
func (session *session) compare(sequence uint64, want digest) error {
	name := fmt.Sprintf("message %d of stream %s", sequence, session.config.stream)
	// So the leader is asked: other replicas may not have the last messages yet.
	session.stream.CachedInfo().Config.AllowDirect = false
	stored, err := session.stream.GetMsg(session.ctx, sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		if sequence > session.place.sequence && !session.doubt {
			return finalf("%s was removed, and was not sent from the log: "+
				"somebody else publishes to it", name)
		}
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case digestOf(stored.Subject, stored.Data) != want:
		return finalf("%s, %d bytes for %s, is not the log's: somebody else publishes to the stream, "+
			"or it was made anew", name, len(stored.Data), stored.Subject)
	}
	return nil
}
