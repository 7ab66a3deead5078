package command

import (
	"net"
	"os"
	"time"
)

// SendState sends the state of the process, such as READY=1, to the service manager, if there is
// one that asks for it: see sd_notify(3). It ignores errors, and waits at most 200 ms.
func SendState(state string) {
	const patience = 200 * time.Millisecond
	address := os.Getenv("NOTIFY_SOCKET") // a path, or an abstract name that begins with @
	if address == "" {
		return
	}
	if connection, err := net.Dial("unixgram", address); err == nil {
		connection.SetDeadline(time.Now().Add(patience))
		connection.Write([]byte(state))
		connection.Close()
	}
}
