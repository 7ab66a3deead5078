//go:build !linux

package broker

// placesForReplies returns how many replies may wait. Each needs a descriptor, and some systems
// allow a process only 256.
func placesForReplies() int { return maxReplies / 4 }
