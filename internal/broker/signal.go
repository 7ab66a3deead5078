package broker

// signal wakes the goroutine that receives from it.
type signal chan struct{}

// newSignal returns a signal that was not sent.
func newSignal() signal {
	return make(signal, 1)
}

// send makes the goroutine that receives continue, now or at its next receive. It never blocks.
func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}
