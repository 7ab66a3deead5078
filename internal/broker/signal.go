package broker

// signal wakes a goroutine, which receives from it.
type signal chan struct{}

// newSignal returns a signal that is not sent yet.
func newSignal() signal {
	return make(signal, 1)
}

// send wakes the goroutine that receives, or lets its next receive return at once. It never blocks.
func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}
