package broker

import "syscall"

// placesForReplies returns how many replies may wait. Each needs a descriptor. As many replies can
// be on their way to their producers, and the log, the listener, the connection in hand and the Go
// runtime need others.
func placesForReplies() int {
	const others = 16
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1
	}
	return int(min((max(limit.Cur, others+2)-others)/2, maxReplies))
}
