package broker

import (
	"net"
	"time"
)

const (
	// maxReplies is how many replies may wait, unless the system has few descriptors.
	maxReplies = 256

	// graceTime is the time limit for the reply, and for discarding unread input. A broker
	// that stops serves the waiting connections for as long.
	graceTime = time.Second
)

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

// send sends an encoded reply. It ignores errors: the producer may have closed without reading a
// reply.
func send(connection net.Conn, reply []byte) {
	connection.SetWriteDeadline(time.Now().Add(graceTime))
	connection.Write(reply)
}
