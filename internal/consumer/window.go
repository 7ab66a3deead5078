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

	mutex    sync.Mutex // guards what follows
	position follow.Position
	isKnown  bool      // whether reach has set position
	started  []start   // in the log's order; the first one is not delivered
	first    int       // the number of started[0]; numbers count from 0
	earlier  []bool    // which of the messages after those in started an earlier process delivered
	output   mark      // for the note
	moved    bool      // whether something has changed since the last save
	room     sync.Cond // on mutex: fewer messages are started than before

	saving sync.Mutex // held during a save, so that no save overtakes another; guards what follows
	err    error      // the first error of a save: the state is not written after it
}

// start is a message that was started.
type start struct {
	after     follow.Position // the position after its line
	delivered bool
}

// newWindow returns a window that saves in state, unless that is nil.
func newWindow(state *follow.State, topics []string) *window {
	w := &window{state: state, topics: topics}
	w.room.L = &w.mutex
	return w
}

// load returns the position in the state, and takes over the note. If the state has none, found is
// false.
func (w *window) load() (position follow.Position, found bool) {
	if w.state == nil {
		return position, false
	}
	position, text, found := w.state.Load()
	saved := parseNote(text)
	w.output, w.earlier = saved.output, saved.doneOf(w.topics)
	return position, found
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
	delivered, w.earlier = w.earlier[0], w.earlier[1:]
	return delivered
}

// start is pass for a message to be delivered by a command. The position after its line is after.
// The number is for finish, unless the message was delivered.
func (w *window) start(after follow.Position) (number int, delivered bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	number, delivered = w.first+len(w.started), w.shift()
	w.started = append(w.started, start{after, delivered})
	w.advance()
	return number, delivered
}

// finish records that the message with this number is delivered.
func (w *window) finish(number int) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.started[number-w.first].delivered = true
	w.moved = true
	w.advance()
}

// advance moves the position past the messages that are delivered in a row.
func (w *window) advance() {
	count := slices.IndexFunc(w.started, func(each start) bool { return !each.delivered })
	if count < 0 {
		count = len(w.started)
	}
	if count == 0 {
		return
	}
	w.position, w.moved = w.started[count-1].after, true
	w.started = w.started[count:]
	w.first += count
	w.room.Broadcast()
}

// reach moves the position to where the log was read to, unless a message before that is not
// delivered. Then moved is false.
func (w *window) reach(position follow.Position, output mark) (moved bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if len(w.started) > 0 {
		return false
	}
	isNew := !w.isKnown || position != w.position || output != w.output
	w.position, w.output, w.isKnown = position, output, true
	w.moved = w.moved || isNew
	return true
}

// mark returns the mark in the note.
func (w *window) mark() mark {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.output
}

// await waits until another message may be started, or for the end of ctx.
func (w *window) await(ctx context.Context) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if len(w.started) < maxStarted {
		return
	}
	stop := context.AfterFunc(ctx, func() {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		w.room.Broadcast()
	})
	defer stop()
	for len(w.started) >= maxStarted && ctx.Err() == nil {
		w.room.Wait()
	}
}

// save saves the position and the note, if they have changed. Its caller has made the log durable
// up to all messages that were started.
func (w *window) save() error {
	w.saving.Lock()
	defer w.saving.Unlock()
	if w.state == nil || w.err != nil {
		return w.err
	}
	if position, note, moved := w.snapshot(); moved {
		w.err = w.state.Save(position, note.String())
	}
	return w.err
}

// snapshot returns what is to be saved.
func (w *window) snapshot() (position follow.Position, saved note, moved bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	saved = note{topics: topicsSum(w.topics), output: w.output}
	for _, each := range w.started {
		saved.done = append(saved.done, each.delivered)
	}
	saved.done = append(saved.done, w.earlier...)
	moved, w.moved = w.moved, false
	return w.position, saved, moved
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
