package broker

// wakeUp wakes the one goroutine that receives from channel, at once or when it
// next receives. channel must have a buffer of one element.
func wakeUp(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// isClosed returns whether channel, on which nothing is sent, is closed.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
