package broker

import (
	"cmp"
	"fmt"
	"time"

	"mbus/internal/apiv1"
)

// settleBytes is what the messages count that a drain writes before it syncs.
const settleBytes = 8 << 20

// arrival is a run of messages that one topic received. Together, the arrivals
// have the order of all messages in the queues.
type arrival struct {
	topic *Topic
	count int
}

// taken is what the ticker goroutine has taken from the loop and not written yet:
// lines, those of the notices first.
type taken struct {
	notices   []notice
	messages  []*apiv1.Message
	formatted int // how many of the lines the log writer has
	written   int // how many of them are written

	// Messages that are written and still on the account: they may not be on
	// disk yet.
	unsettled struct{ messages, bytes int }
}

// write writes what an error left over, all notices, and the first due messages of
// the queues.
func (broker *Broker) write(due int) error {
	err := broker.writeTaken()
	for more := true; more && err == nil; more = due > 0 {
		due -= broker.take(due)
		err = broker.writeTaken()
		if !broker.config.Sync || broker.taken.unsettled.bytes >= settleBytes {
			err = cmp.Or(broker.settle(), err)
		}
	}
	err = cmp.Or(broker.settle(), err)
	broker.noteOutage(err)
	return err
}

// take takes all notices, and about as many messages as one write holds, but at
// most due. It returns how many messages it took. Since it takes both under one
// lock, and notices are written first, no message is written before its notices.
func (broker *Broker) take(due int) int {
	const aroundData = 64 // bytes of a line, roughly
	state, taken := &broker.state, &broker.taken
	state.Lock()
	defer state.Unlock()
	taken.notices, taken.messages = state.notices.take(), taken.messages[:0]
	taken.formatted, taken.written = 0, 0
	for size := 0; len(taken.messages) < due && size < gatherSize; {
		arrival := &state.arrivals[0]
		message := arrival.topic.Queue.Dequeue()
		taken.messages = append(taken.messages, message)
		size += aroundData + len(message.Data)
		if arrival.count--; arrival.count == 0 {
			arrival.topic = nil // keep no topic alive
			state.arrivals = state.arrivals[1:]
		}
	}
	state.waitingMessages -= len(taken.messages)
	return len(taken.messages)
}

// writeTaken writes what was taken, or goes on where writing it failed.
func (broker *Broker) writeTaken() error {
	taken, log := &broker.taken, &broker.log
	now := time.Now() // for all messages that were taken: one write or a little more
	err := broker.look(now)
	if err == nil {
		err = log.finish()
	}
	for taken.formatted < len(taken.notices)+len(taken.messages) && err == nil {
		at := taken.formatted
		taken.formatted++
		if at < len(taken.notices) {
			err = log.notice(&taken.notices[at])
		} else {
			err = log.message(now, taken.messages[at-len(taken.notices)])
		}
	}
	if err == nil {
		err = log.flush()
	}
	for ; log.lines > 0; log.lines-- {
		if at := taken.written - len(taken.notices); at >= 0 {
			taken.unsettled.messages++
			taken.unsettled.bytes += messageBytes(taken.messages[at])
			taken.messages[at] = nil // keep no message alive
		}
		taken.written++
	}
	return err
}

// settle takes the messages that are written off the account, once they are on disk
// if that is wanted.
func (broker *Broker) settle() error {
	unsettled := &broker.taken.unsettled
	if unsettled.messages == 0 {
		return nil
	}
	if broker.store != nil {
		if err := broker.store.sync(); err != nil {
			return err
		}
	}
	broker.state.Lock()
	broker.state.queuedMessages -= unsettled.messages
	broker.state.accountedBytes -= unsettled.bytes
	broker.state.Unlock()
	unsettled.messages, unsettled.bytes = 0, 0
	wakeUp(broker.written)
	return nil
}

// look has a store look at the name of its file, if that is due. If the file is
// another, the line in hand is written anew, from its beginning.
func (broker *Broker) look(now time.Time) error {
	store := broker.store
	if store == nil || store.file != nil && now.Before(broker.nextLook) {
		return nil
	}
	moved, err := store.look()
	if moved {
		broker.log.reset()
		broker.taken.formatted = broker.taken.written
	}
	if err != nil {
		return err
	}
	broker.nextLook = now.Add(lookInterval)
	broker.reportCut()
	return nil
}

// reportCut hands over a notice about a torn line that the store has cut off.
func (broker *Broker) reportCut() {
	if store := broker.store; store != nil && store.cut > 0 {
		broker.notify(fmt.Sprintf("Broker: cut %d bytes of a torn line off the end of the log", store.cut))
		store.cut = 0
	}
}
