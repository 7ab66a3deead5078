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

// waitingReply is the reply to a payload whose messages are queued and not written. Who takes it
// out of queues.replies owns its connection: the ticker goroutine to answer, or its timer at the
// deadline to close the connection without a reply.
type waitingReply struct {
	connection net.Conn
	reply      []byte
	last       int // the number of the payload's last message, as queues.accepted counts
	timer      *time.Timer
}

// wait leaves connection, with the reply for the payload that was just queued, to the ticker
// goroutine. The caller holds the mutex, and has put an element into places.
func (q *queues) wait(connection net.Conn, reply []byte, deadline time.Time) {
	waiting := &waitingReply{connection: connection, reply: reply, last: q.accepted}
	waiting.timer = time.AfterFunc(time.Until(deadline), func() { q.giveUp(waiting) })
	q.replies = append(q.replies, waiting)
}

// takeWritten removes and returns the replies to payloads that are written, in the order of
// acceptance. The caller holds the mutex.
func (q *queues) takeWritten() []*waitingReply {
	count := 0
	for count < len(q.replies) && q.replies[count].last <= q.written {
		count++
	}
	taken := q.replies[:count:count]
	q.replies = q.replies[count:]
	return taken
}

// answer sends replies, and closes their connections.
func (q *queues) answer(replies []*waitingReply) {
	for _, waiting := range replies {
		waiting.timer.Stop()
		send(waiting.connection, waiting.reply)
		waiting.connection.Close()
		<-q.places
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
		return // the ticker goroutine has it
	}
	q.notify(fmt.Sprintf("no reply to %s: its messages are queued, but were not written in time",
		listener.PeerName(waiting.connection)))
	waiting.connection.Close()
	<-q.places
}

// giveUpAll closes the connections of all replies that wait.
func (q *queues) giveUpAll() {
	q.mutex.Lock()
	replies := slices.Clone(q.replies)
	q.mutex.Unlock()
	for _, waiting := range replies {
		q.giveUp(waiting)
	}
}
