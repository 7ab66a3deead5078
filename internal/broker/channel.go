package broker

// wakeUp makes the goroutine that receives from channel continue, now or at its next receive.
// It never blocks. channel must have a buffer of one element.
func wakeUp(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// isClosed reports whether channel is closed. Nothing must be sent on it.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
