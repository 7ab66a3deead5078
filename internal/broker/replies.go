package broker

import (
	"net"
	"time"
)

const (
	// maxReplies is how many replies may wait, unless the system has few descriptors.
	maxReplies = 256

	// graceTime is the time limit for sending a reply, and for discarding input after a refusal.
	// For as long a broker that stops serves the connections that are waiting.
	graceTime = time.Second
)

// waitingReply is the reply to a payload whose messages are queued and not all written. Who removes
// it from queues.replies owns the connection from then on: the ticker goroutine, which sends the
// reply, or the timer, which closes the connection at the deadline.
type waitingReply struct {
	connection net.Conn
	reply      []byte // encoded
	last       int    // the number of the payload's last message
	timer      *time.Timer
}

// answer sends replies that the caller has removed, and closes their connections.
func answer(replies []*waitingReply) {
	for _, waiting := range replies {
		waiting.timer.Stop()
		send(waiting.connection, waiting.reply)
		waiting.connection.Close()
	}
}

// send sends an encoded reply. It ignores errors, because a producer may close without reading the
// reply.
func send(connection net.Conn, reply []byte) {
	connection.SetWriteDeadline(time.Now().Add(graceTime))
	connection.Write(reply)
}
