package broker

import (
	"fmt"
	"net"
	"slices"
	"time"

	"mbus/internal/broker/listener"
)

// maxReplies is how many replies may wait, unless the system has few descriptors.
const maxReplies = 256

// waitingReply is the reply to a payload whose messages are queued and not written. Who removes it
// from queues.replies owns its connection: the ticker goroutine to send the reply, or its timer at
// the deadline to close the connection without a reply.
type waitingReply struct {
	connection net.Conn
	reply      []byte
	last       int // the number of the payload's last message
	timer      *time.Timer
}

// answer sends replies that were removed, and closes their connections.
func answer(replies []*waitingReply) {
	for _, waiting := range replies {
		waiting.timer.Stop()
		send(waiting.connection, waiting.reply)
		waiting.connection.Close()
	}
}

// giveUp closes the connection of a reply that still waits, and says so in the log.
func (q *queues) giveUp(waiting *waitingReply) {
	q.mutex.Lock()
	at := slices.Index(q.replies, waiting)
	if at >= 0 {
		q.replies = slices.Delete(q.replies, at, at+1)
	}
	q.mutex.Unlock()
	if at < 0 {
		return // its connection has another owner
	}
	q.notify(fmt.Sprintf("no reply to %s: its messages are queued, but were not written in time",
		listener.PeerName(waiting.connection)))
	waiting.connection.Close()
	wakeUp(q.freed)
}

// end records that the ticker goroutine has ended. It closes the connections of all replies that
// wait.
func (q *queues) end() {
	q.mutex.Lock()
	q.ended = true
	replies := q.replies
	q.replies = nil
	q.mutex.Unlock()
	for _, waiting := range replies {
		waiting.timer.Stop()
		waiting.connection.Close()
	}
	wakeUp(q.freed)
}
