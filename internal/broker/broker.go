// Package broker is the broker of mbus. It receives payloads over TCP or a Unix socket, keeps their
// messages in one FIFO queue for each topic, and drains the queues into its log.
//
// Two goroutines do the work. The loop (serve) serves one connection at a time, start to end, and
// queues its messages. The ticker goroutine (tickLoop) drains the queues, and it alone writes the
// log. Any goroutine may hand it the other lines of the log, the notices. At interval 0 the loop
// hands it the replies that wait for a drain. What the two share is in queues. Neither holds the
// mutex of queues during input or output, so neither waits for the input or output of the other.
// What belongs to the ticker goroutine alone is in drainer. All else in Broker is the loop's. A
// third goroutine (keepMetrics) writes the counts in queues to a file. Each reply that waits has a
// timer, which closes its connection at the deadline.
package broker

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/broker/listener"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
	"mbus/internal/shared/escape"
)

// Broker is one broker on one TCP port or one path.
type Broker struct {
	config   *BrokerConfig
	decoder  decoder.Decoder
	encoder  encoder.Encoder
	listener listener.Listener
	input    []byte // see readMessages
	queues
	drainer drainer

	serving  sync.Mutex         // held while ProducerListen runs
	hasRun   bool               // ProducerListen was called; guarded by serving
	stopping context.Context    // done when the broker stops
	stop     context.CancelFunc // ends stopping; only stopAccepting calls it
	begin    time.Time          // when New made the broker
}

// New returns a broker that listens, but serves nobody before ProducerListen. With
// config.LogFile, it opens and locks that file. It keeps config, which must not change
// afterwards. The error is that of config.Validate, of opening the log, of a config.Metrics that
// must not be replaced, or of listening.
func New(config *BrokerConfig) (*Broker, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	b := &Broker{
		config:  config,
		decoder: decoder.NewMsgpackDecoder(config.MaxQueued / messageOverhead),
		encoder: encoder.NewMsgpackEncoder(),
		input:   make([]byte, min(minInput-1, config.MaxPayload)+1),
		queues:  newQueues(config.MaxQueued),
		begin:   time.Now(),
	}
	b.stopping, b.stop = context.WithCancel(context.Background())
	if err := b.drainer.open(config, &b.queues); err != nil {
		return nil, err
	}
	err := b.checkMetrics()
	if err == nil {
		b.listener, err = listener.Listen(config.ProducerHost, config.ProducerPort)
	}
	if err != nil {
		b.drainer.log.store.close()
		return nil, err
	}
	return b, nil
}

// Addr returns the address that the broker listens on.
func (b *Broker) Addr() net.Addr {
	return b.listener.Addr()
}

// ProducerListen serves producers until Close or Stop, or until the log is gone. Then it drains the
// queues. It returns nil if all messages were written. Otherwise the error says how many were not,
// and why. It may be called once.
func (b *Broker) ProducerListen() error {
	b.serving.Lock()
	defer b.serving.Unlock()
	b.hasRun = true
	b.notify("Broker: start listening for incoming producer messages...")
	listening := escape.Append(nil, []byte(b.Addr().String()))
	b.notify("Broker: listening on " + string(listening))
	if address, ok := b.Addr().(*net.TCPAddr); ok && !address.IP.IsLoopback() {
		b.notify("Broker: anybody who reaches this port can send messages: " +
			"there is no authentication")
	}

	stopped, metricsEnded := make(chan struct{}), make(chan struct{})
	go b.keepMetrics(stopped, metricsEnded)
	loopEnded := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		err := b.drainer.tickLoop(loopEnded)
		b.drainer.log.store.close()
		b.end()
		b.stopAccepting()
		result <- err
	}()
	b.serve()
	close(loopEnded)
	err := b.drainer.awaitEnd(result)
	close(stopped)
	select {
	case <-metricsEnded:
	case <-time.After(graceTime): // a file system that does not answer must not keep the process
	}
	if err != nil {
		b.mutex.Lock()
		defer b.mutex.Unlock()
		err = fmt.Errorf("messages not written: %d: %w", b.accepted-b.written, err)
	}
	return err
}

// Stop writes a line with the reason to the log, and closes the broker.
func (b *Broker) Stop(reason string) {
	b.notify("Broker: stopping: " + reason)
	b.Close()
}

// Close makes ProducerListen serve the current connection and those that are waiting, drain,
// and return. It waits until ProducerListen has returned. If ProducerListen was never called,
// Close closes what New opened. Any goroutine may call Close at any time, more than once.
func (b *Broker) Close() {
	b.stopAccepting()
	b.serving.Lock()
	defer b.serving.Unlock()
	b.listener.Close()
	if !b.hasRun {
		b.drainer.log.store.close()
	}
}

// HandleNewMessage routes message, which must be valid, into its topic. It makes the topic if it is
// not known. The loop holds the mutex of queues while it calls this for all messages of a payload,
// so that a drain writes the whole payload or nothing of it.
func (b *Broker) HandleNewMessage(message *apiv1.Message) {
	b.addArrival(message).Dispatch(message)
}

// Drain writes all notices, and a line for each message that is queued when it begins, in the
// order of arrival. If it can't write a line, it returns the error. That message and those after it
// stay queued, in their order. Drain must not be called while ProducerListen runs.
func (b *Broker) Drain() error {
	return b.drainer.drain(true)
}
