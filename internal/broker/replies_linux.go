package broker

import "syscall"

// placesForReplies returns how many replies may wait. Each needs a descriptor, and so do the log,
// the listener, the connection in hand and the Go runtime.
func placesForReplies() int {
	const others = 16
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1
	}
	return int(min(max(limit.Cur, others+1)-others, maxReplies))
}
