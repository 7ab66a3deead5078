package broker

import (
	"cmp"
	"fmt"
	"time"

	"mbus/internal/apiv1"
)

// settleBytes is how much of a long drain is written before each sync, in bytes as
// messageBytes counts them.
const settleBytes = 8 << 20

// arrival is a run of messages that were queued on one topic, one after the other. The list of
// arrivals is the order of all messages in the queues.
type arrival struct {
	topic *Topic
	count int
}

// taken has the notices and messages that the ticker goroutine has taken from the state to
// write them. Their lines are numbered from 0, those of the notices first.
type taken struct {
	notices   []notice
	messages  []*apiv1.Message
	formatted int // how many lines were given to the log writer
	written   int // how many lines are written

	// Messages that are written, but count as queued until settle.
	unsettled struct{ messages, bytes int }
}

// write writes the lines that the last error has left, all notices, and the first due
// messages of the queues.
func (broker *Broker) write(due int) error {
	err := broker.writeTaken()
	for more := true; more && err == nil; more = due > 0 {
		due -= broker.take(due)
		err = broker.writeTaken()
		if !broker.config.Sync || broker.taken.unsettled.bytes >= settleBytes {
			err = cmp.Or(broker.settle(), err)
		}
	}
	if err == nil {
		broker.state.Lock()
		broker.state.notices.writing = 0
		broker.state.Unlock()
	}
	err = cmp.Or(broker.settle(), err)
	broker.noteOutage(err)
	return err
}

// take takes all notices, and about as many messages as fit into one write, but at most due.
// It returns the number of messages. It takes both under one lock, and notices are written
// first, so no message is written before its notice.
func (broker *Broker) take(due int) int {
	const aroundData = 64 // bytes of a line without its data, roughly
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
			arrival.topic = nil // so that its memory can be freed
			state.arrivals = state.arrivals[1:]
		}
	}
	state.waitingMessages -= len(taken.messages)
	return len(taken.messages)
}

// writeTaken writes all lines that were taken. After an error, the next call continues with
// the rest.
func (broker *Broker) writeTaken() error {
	taken, log := &broker.taken, &broker.log
	now := time.Now() // the time stamp of all messages that were taken
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
			taken.messages[at] = nil // so that its memory can be freed
		}
		taken.written++
	}
	return err
}

// settle stops counting written messages as queued. With config.Sync it syncs the log first.
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

// look calls the store's look, if there is a store and a look is due. If the store then has
// another file, the lines that are not written whole are written from their beginning.
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

// reportCut adds a notice if the store has cut off a torn line.
func (broker *Broker) reportCut() {
	if cut := broker.store.cut; cut > 0 {
		broker.notify(fmt.Sprintf(
			"Broker: cut %d bytes of a torn line off the end of the log", cut))
		broker.store.cut = 0
	}
}
