package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/follow"
)

const (
	// lagPatience is how long find waits for a stream that ends before last. A new leader of a
	// replicated stream may lag for a moment.
	lagPatience = 5 * time.Second

	// logPatience is how long find waits for a log that ends before the stream. It is longer
	// than package follow waits for what is missing of the log.
	logPatience = 15 * time.Second
)

// noteFormat is the form of a place, without its position, in the note of a state.
const noteFormat = "sequence %d message %s pending %t"

// unknown is a place's hash if the message there is not known.
const unknown = "unknown"

// place is where the log and the stream agree: the stream's messages up to sequence are
// those of the log up to position.
type place struct {
	position follow.Position
	sequence uint64
	hash     string // of the message at sequence, or unknown
	pending  bool   // in a state: the forwarder's doubt when it starts from this place
}

// hash returns the hash of a message: half the SHA-256, in hexadecimal, of its subject, a
// zero byte, and its data.
func hash(subject string, data []byte) string {
	whole := sha256.New()
	whole.Write(append([]byte(subject), 0))
	whole.Write(data)
	return hex.EncodeToString(whole.Sum(nil)[:sha256.Size/2])
}

// note returns place, without the position, in noteFormat.
func (place *place) note() string {
	return fmt.Sprintf(noteFormat, place.sequence, place.hash, place.pending)
}

// load sets the place to the one in the state, if there is one.
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

// save saves the place, unless it is the one that was saved last, or interval has not passed
// since then. The place is pending if sending is true, or if the stream may have messages of the
// log beyond it. save syncs the log before: otherwise a power loss could leave the state with a
// position that the log has lost.
func (forwarder *forwarder) save(sending bool, interval time.Duration) error {
	if forwarder.place == nil || time.Since(forwarder.savedAt) < interval {
		return nil
	}
	place := *forwarder.place
	place.pending = sending || forwarder.doubt || forwarder.last > place.sequence
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

// find reads the log up to the first message that the stream does not have. It compares the
// messages that the stream has beyond the place with those of the log.
func (forwarder *forwarder) find(stop context.Context) error {
	end := forwarder.stream.CachedInfo().State.LastSeq
	deadline := time.Now().Add(lagPatience)
	for end < forwarder.last && time.Now().Before(deadline) {
		forwarder.log.Wait(stop)
		if err := forwarder.open(stop); err != nil {
			return err
		}
		end = forwarder.stream.CachedInfo().State.LastSeq
	}
	place := forwarder.place
	switch {
	case place == nil:
		return forwarder.begin(end, nil)
	case end < forwarder.last:
		return forwarder.begin(end, fmt.Errorf("stream %s has lost messages or was recreated: "+
			"it ends at %d, and ended at %d before", forwarder.config.stream, end, forwarder.last))
	}
	forwarder.log.Seek(place.position)
	if place.hash != unknown {
		if err := forwarder.compare(stop, place); err != nil {
			return err
		}
	}
	return forwarder.skip(stop, end)
}

// begin makes a new place: the start or the end of the log, as -from says, and end, the stream's
// last sequence. The error lost says why the old place is not valid; it is nil if there is none.
func (forwarder *forwarder) begin(end uint64, lost error) error {
	config := forwarder.config
	if lost == nil && end > 0 {
		lost = fmt.Errorf("stream %s ends at %d, but %s has no position",
			config.stream, end, config.state)
	}
	switch {
	case lost != nil && config.from == "":
		return fmt.Errorf("%v: use -from start to send the whole log, "+
			"or -from end to send only new messages", lost)
	case lost != nil:
		forwarder.report("%v: continuing from the %s of the log", lost, config.from)
	}
	var position follow.Position // the start
	if config.from == "end" {
		var err error
		if position, err = forwarder.log.End(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	forwarder.log.Seek(position)
	forwarder.place = &place{position: position, sequence: end, hash: unknown}
	forwarder.last, forwarder.doubt = end, false
	return nil
}

// skip reads the messages of the log that the stream has, up to end, and compares them.
func (forwarder *forwarder) skip(stop context.Context, end uint64) error {
	patience := time.Now().Add(logPatience)
	for forwarder.place.sequence < end && stop.Err() == nil {
		sequence := forwarder.place.sequence + 1
		var batch batch
		if err := forwarder.read(&batch, 1); err != nil {
			return err
		}
		switch {
		case len(batch.messages) > 0:
			patience = time.Now().Add(logPatience)
		case time.Now().After(patience):
			return fmt.Errorf("stream %s ends at %d, and the log at %d: "+
				"somebody else publishes to the stream", forwarder.config.stream, end, sequence-1)
		default:
			forwarder.log.Wait(stop)
			continue
		}
		place := &place{position: batch.end, sequence: sequence, hash: batch.hash()}
		if err := forwarder.compare(stop, place); err != nil {
			return err
		}
		forwarder.place = place
		if err := forwarder.save(false, saveInterval); err != nil {
			return err
		}
	}
	forwarder.last = end
	return nil
}

// compare returns an error if the stream's message at place is not the log's. A message that
// the stream has removed is an error only if the forwarder can't have sent it.
func (forwarder *forwarder) compare(stop context.Context, place *place) error {
	name := fmt.Sprintf("message %d of stream %s", place.sequence, forwarder.config.stream)
	// Without direct access the leader answers; other replicas may lack the last messages.
	forwarder.stream.CachedInfo().Config.AllowDirect = false
	stored, err := forwarder.stream.GetMsg(stop, place.sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		if place.sequence > forwarder.last && !forwarder.doubt {
			return fmt.Errorf("%s was removed, and was not sent from the log: "+
				"somebody else publishes to the stream", name)
		}
	case err != nil:
		return forwarder.away(err)
	case hash(stored.Subject, stored.Data) != place.hash:
		return fmt.Errorf("%s, %d bytes for %s, is not the log's: "+
			"somebody else publishes to the stream, or it was recreated",
			name, len(stored.Data), stored.Subject)
	}
	return nil
}
