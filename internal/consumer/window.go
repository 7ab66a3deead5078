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
	window := &window{state: state, topics: topics}
	window.room.L = &window.mutex
	return window
}

// load returns the position in the state, and takes over the note. If the state has none, found is
// false.
func (window *window) load() (position follow.Position, found bool) {
	if window.state == nil {
		return position, false
	}
	position, text, found := window.state.Load()
	saved := parseNote(text)
	window.output, window.earlier = saved.output, saved.doneOf(window.topics)
	return position, found
}

// pass counts one more message that was read. It reports whether an earlier process delivered it.
func (window *window) pass() (delivered bool) {
	window.mutex.Lock()
	defer window.mutex.Unlock()
	return window.shift()
}

func (window *window) shift() (delivered bool) {
	if len(window.earlier) == 0 {
		return false
	}
	delivered, window.earlier = window.earlier[0], window.earlier[1:]
	return delivered
}

// start is pass for a message to be delivered by a command. The position after its line is after.
// The number is for finish, unless the message was delivered.
func (window *window) start(after follow.Position) (number int, delivered bool) {
	window.mutex.Lock()
	defer window.mutex.Unlock()
	number, delivered = window.first+len(window.started), window.shift()
	window.started = append(window.started, start{after, delivered})
	window.advance()
	return number, delivered
}

// finish records that the message with this number is delivered.
func (window *window) finish(number int) {
	window.mutex.Lock()
	defer window.mutex.Unlock()
	window.started[number-window.first].delivered = true
	window.moved = true
	window.advance()
}

// advance moves the position past the messages that are delivered in a row.
func (window *window) advance() {
	count := slices.IndexFunc(window.started, func(each start) bool { return !each.delivered })
	if count < 0 {
		count = len(window.started)
	}
	if count == 0 {
		return
	}
	window.position, window.moved = window.started[count-1].after, true
	window.started = window.started[count:]
	window.first += count
	window.room.Broadcast()
}

// reach moves the position to where the log was read to, unless a message before that is not
// delivered. Then moved is false.
func (window *window) reach(position follow.Position, output mark) (moved bool) {
	window.mutex.Lock()
	defer window.mutex.Unlock()
	if len(window.started) > 0 {
		return false
	}
	isNew := !window.isKnown || position != window.position || output != window.output
	window.position, window.output, window.isKnown = position, output, true
	window.moved = window.moved || isNew
	return true
}

// mark returns the mark in the note.
func (window *window) mark() mark {
	window.mutex.Lock()
	defer window.mutex.Unlock()
	return window.output
}

// await waits until another message may be started, or for the end of ctx.
func (window *window) await(ctx context.Context) {
	window.mutex.Lock()
	defer window.mutex.Unlock()
	if len(window.started) < maxStarted {
		return
	}
	stop := context.AfterFunc(ctx, func() {
		window.mutex.Lock()
		defer window.mutex.Unlock()
		window.room.Broadcast()
	})
	defer stop()
	for len(window.started) >= maxStarted && ctx.Err() == nil {
		window.room.Wait()
	}
}

// save saves the position and the note, if they have changed. Its caller has made the log durable
// up to all messages that were started.
func (window *window) save() error {
	window.saving.Lock()
	defer window.saving.Unlock()
	if window.state == nil || window.err != nil {
		return window.err
	}
	if position, note, moved := window.snapshot(); moved {
		window.err = window.state.Save(position, note.String())
	}
	return window.err
}

// snapshot returns what is to be saved.
func (window *window) snapshot() (position follow.Position, saved note, moved bool) {
	window.mutex.Lock()
	defer window.mutex.Unlock()
	saved = note{topics: topicsSum(window.topics), output: window.output}
	for _, each := range window.started {
		saved.done = append(saved.done, each.delivered)
	}
	saved.done = append(saved.done, window.earlier...)
	moved, window.moved = window.moved, false
	return window.position, saved, moved
}

// close ends the saves and closes the state.
func (window *window) close() {
	window.saving.Lock()
	defer window.saving.Unlock()
	if window.state != nil {
		window.state.Close()
		window.state = nil
	}
}
