package consumer

import (
	"context"
	"slices"
	"sync"

	"mbus/internal/shared/follow"
)

// window owns a consumer's position: the place in the log before which all messages are delivered.
// It knows which messages after the position were started, and which of these are delivered, and
// saves that in the state. It is safe for concurrent use.
//
// Without a command nothing is ever started: the position is the place that was read last.
type window struct {
	state  *follow.State // nil: nothing is saved
	topics []string      // that are read; empty: all
	room   chan struct{} // has an element for each message in started, and for the next

	mutex    sync.Mutex // guards what follows
	position follow.Position
	started  []*started // in the log's order; the first one is not delivered
	earlier  []*started // after these in the log, by an earlier process: see Consumer.earlier
	output   mark       // for the note
	changed  bool       // whether there is something to save

	saving sync.Mutex // held during a save, so that no save overtakes another; guards what follows
	err    error      // the first error of a save: the state is not written after it
}

// started is a message that was started.
type started struct {
	after     follow.Position // the position after its line
	checksum  uint32          // of its line
	delivered bool
}

// newWindow returns a window without a state.
func newWindow(topics []string) *window {
	return &window{topics: topics, room: make(chan struct{}, maxStarted)}
}

// open opens the state at path, and returns its position and its note. If the state has none, or
// path is empty, found is false.
func (w *window) open(path string) (
	position follow.Position, saved note, found bool, err error,
) {
	if path == "" {
		return position, saved, false, nil
	}
	if w.state, err = follow.OpenState(path, kind); err != nil {
		return position, saved, false, err
	}
	position, text, found := w.state.Load()
	saved = parseNote(text)
	w.output = saved.output
	return position, saved, found, nil
}

// pass counts one more message that was read. It reports whether an earlier process delivered it.
func (w *window) pass() (delivered bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.shift()
}

func (w *window) shift() (delivered bool) {
	if len(w.earlier) == 0 {
		return false
	}
	delivered, w.earlier = w.earlier[0].delivered, w.earlier[1:]
	return delivered
}

// await waits until another message may be started, or for the end of ctx.
func (w *window) await(ctx context.Context) {
	select {
	case w.room <- struct{}{}:
	case <-ctx.Done():
	}
}

// start is pass for a message to be delivered by a command, after await has waited for its room.
// The position after its line is after, and the checksum is that of its line. The result is for
// finish. If an earlier process delivered the message, it is nil.
func (w *window) start(after follow.Position, checksum uint32) *started {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	next := &started{after, checksum, w.shift()}
	w.started = append(w.started, next)
	w.advance()
	if next.delivered {
		return nil
	}
	return next
}

// finish records that a message is delivered.
func (w *window) finish(done *started) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	done.delivered, w.changed = true, true
	w.advance()
}

// advance advances the position past the messages that are delivered in a row.
func (w *window) advance() {
	for len(w.started) > 0 && w.started[0].delivered {
		w.position, w.changed = w.started[0].after, true
		w.started = w.started[1:]
		<-w.room
	}
}

// reach advances the position to where the log was read to, unless a message before that is not
// delivered: then isReached is false. The first position counts as a change, also if it
// is the zero position, so that a state that can't be saved is found at the start.
func (w *window) reach(position follow.Position, m mark) (isReached bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if len(w.started) > 0 {
		return false
	}
	isFirst := w.position == (follow.Position{})
	w.changed = w.changed || isFirst || position != w.position || m != w.output
	w.position, w.output = position, m
	return true
}

// save saves the position and the note, if they have changed. Its caller has made the log durable
// up to all messages that were started.
func (w *window) save() error {
	w.saving.Lock()
	defer w.saving.Unlock()
	if w.state == nil || w.err != nil {
		return w.err
	}
	if position, saved, changed := w.snapshot(); changed {
		w.err = w.state.Save(position, saved.String())
	}
	return w.err
}

// snapshot returns what is to be saved.
func (w *window) snapshot() (position follow.Position, saved note, changed bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	messages := append(slices.Clip(w.started), w.earlier...)
	saved = note{sum: doneSum(w.topics, messages), output: w.output}
	for _, each := range messages {
		saved.done = append(saved.done, each.delivered)
	}
	changed, w.changed = w.changed, false
	return w.position, saved, changed
}

// close ends the saves and closes the state.
func (w *window) close() {
	w.saving.Lock()
	defer w.saving.Unlock()
	if w.state != nil {
		w.state.Close()
		w.state = nil
	}
}
