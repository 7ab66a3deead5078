// Package broker is the message bus. It receives payloads over TCP, keeps their messages in
// one FIFO queue for each topic, and drains the queues into its log.
//
// Two goroutines do all the work. The loop (ProducerListen) serves one connection at a
// time, start to end, and queues its messages. The ticker goroutine (tickLoop) drains the
// queues, and it alone writes the log. The loop hands it the log's other lines, the
// notices. One mutex guards the state that the two share. Neither holds it during input or
// output, so neither waits for the input or output of the other.
package broker

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// Broker is one message bus on one TCP port.
type Broker struct {
	config   *BrokerConfig
	decoder  decoder.Decoder
	encoder  encoder.Encoder
	listener *net.TCPListener
	input    []byte            // the loop's buffer: see readMessages
	topics   map[string]*Topic // guarded by state

	// The loop and the ticker goroutine share state.
	state struct {
		sync.Mutex
		payloadTopics   []*Topic  // of the payload that is being queued
		arrivals        []arrival // of the messages in the queues, in order
		notices         notices
		waitingMessages int  // in the queues
		queuedMessages  int  // in the queues, or taken from them and not written
		accountedBytes  int  // of these messages and of the topics: see messageBytes, topicBytes
		roomWanted      bool // the last payload found no room: drain, forget empty topics

		// Since the broker was made. An empty payload counts nowhere, and a payload that
		// was queued counts even if its reply could not be sent.
		payloadsAccepted, payloadsRefused, messagesAccepted int
	}

	// These belong to the ticker goroutine.
	log      logWriter
	taken    taken
	store    *store    // nil without config.LogFile
	nextLook time.Time // when the store is next asked whether its file was renamed
	outage   outage

	stderr    io.Writer     // with a store: for the counts, and the beginning of an outage
	complaint chan struct{} // full while a complaint is being written

	wake    chan struct{} // to the ticker goroutine: there are notices, or a drain is wanted
	written chan struct{} // to the loop: messages were written, or topics forgotten
	ended   chan struct{} // closed: the ticker goroutine has ended

	serving  sync.Mutex    // held while ProducerListen runs
	served   bool          // guarded by serving: ProducerListen has been called
	stop     sync.Once     // closes stopping
	stopping chan struct{} // closed: accept no more connections
	begin    time.Time     // when New made the broker
}

// New returns a broker that listens, but serves nobody before ProducerListen. With
// config.LogFile, it opens and locks that file. It keeps config, which must not change
// afterwards. The error is that of config.Validate, of opening the log, or of listening.
func New(config *BrokerConfig) (*Broker, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	broker := &Broker{
		config:   config,
		decoder:  decoder.NewMsgpackDecoder(config.MaxQueued / messageOverhead),
		encoder:  encoder.NewMsgpackEncoder(),
		input:    make([]byte, min(keptInput-1, config.MaxPayload)+1),
		topics:   make(map[string]*Topic),
		wake:     make(chan struct{}, 1),
		written:  make(chan struct{}, 1),
		ended:    make(chan struct{}),
		stopping: make(chan struct{}),
		begin:    time.Now(),
	}
	if err := broker.openLog(); err != nil {
		return nil, err
	}
	if err := broker.listen(); err != nil {
		broker.closeUnserved()
		return nil, err
	}
	return broker, nil
}

// listen listens on the configured address. The error names the address.
func (broker *Broker) listen() error {
	listening := net.ListenConfig{
		KeepAlive: -1, // no connection lasts long enough for it
		Control:   deferAccept,
	}
	listening.SetMultipathTCP(false) // refuseConnections has no effect on that
	address := net.JoinHostPort(broker.config.ProducerHost, broker.config.ProducerPort)
	listener, err := listening.Listen(context.Background(), "tcp", address)
	if err == nil {
		broker.listener = listener.(*net.TCPListener)
	}
	return err
}

// openLog prepares the log for writing. With config.LogFile, it opens that file.
func (broker *Broker) openLog() error {
	writer := cmp.Or[io.Writer](broker.config.Log, os.Stderr)
	if broker.config.LogFile == "" {
		broker.log.start(writer)
		return nil
	}
	broker.stderr, broker.complaint = writer, make(chan struct{}, 1)
	broker.store = &store{path: broker.config.LogFile, synced: broker.config.Sync}
	broker.log.start(broker.store)
	broker.store.progress = broker.log.progress
	err := broker.store.open()
	broker.reportCut()
	return err
}

// closeUnserved closes the store, if there is one, of a broker that has not served. First it
// writes the notice that New may have left: how much of a torn line was cut off.
func (broker *Broker) closeUnserved() {
	if broker.store != nil && broker.store.file != nil {
		broker.write(0)
		broker.store.close()
	}
}

// Addr returns the address that the broker listens on.
func (broker *Broker) Addr() net.Addr {
	return broker.listener.Addr()
}

// ProducerListen serves producers until Close, or until the log is gone. Then it drains the
// queues. It returns nil if all messages were written. Otherwise its error says how many were
// not, and why. It may be called once.
func (broker *Broker) ProducerListen() error {
	broker.serving.Lock()
	defer broker.serving.Unlock()
	broker.served = true
	broker.notify("Broker: start listening for incoming producer messages...")
	broker.notify(fmt.Sprintf("Broker: listening on %s", broker.Addr()))
	if address, ok := broker.Addr().(*net.TCPAddr); ok && !address.IP.IsLoopback() {
		broker.notify("Broker: anybody who reaches this port can send messages: " +
			"there is no authentication")
	}

	served := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		err := broker.tickLoop(served)
		if broker.store != nil {
			broker.store.close()
		}
		result <- err
		close(broker.ended)
		broker.stopAccepting()
	}()
	broker.serve()
	close(served)
	err := broker.awaitLastDrain(result)
	if err != nil {
		broker.state.Lock()
		defer broker.state.Unlock()
		err = fmt.Errorf("messages not written: %d: %w", broker.state.queuedMessages, err)
	}
	return err
}

// Stop writes a line with the reason to the log, and closes the broker.
func (broker *Broker) Stop(reason string) {
	broker.notify("Broker: stopping: " + reason)
	broker.Close()
}

// Close makes ProducerListen serve the current connection and those that are waiting, drain,
// and return. Close waits until ProducerListen has returned. If ProducerListen was never
// called, Close closes the file that New opened. Any goroutine may call Close at any time,
// more than once.
func (broker *Broker) Close() {
	broker.stopAccepting()
	broker.serving.Lock()
	defer broker.serving.Unlock()
	broker.listener.Close()
	if !broker.served {
		broker.closeUnserved()
	}
}

// awaitLastDrain waits for the ticker goroutine's end and returns its error. It gives up when
// the log has taken nothing for config.Timeout.
func (broker *Broker) awaitLastDrain(result <-chan error) error {
	const minPatience = 200 * time.Millisecond // a log that works may need as long
	patience := max(broker.config.Timeout, minPatience)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case err := <-result:
			return err
		case <-broker.log.progress:
		case <-timer.C:
			if len(broker.log.progress) == 0 { // the timer may be over at the same time
				return fmt.Errorf("the log took nothing for %s", patience)
			}
		}
		timer.Reset(patience)
	}
}

// HandleNewMessage routes message, which must be valid, into its topic. It makes the topic if
// there is none. The caller holds the lock of broker.state for all messages of a payload
// and for announceLocked, so that a drain has the whole payload or nothing of it.
func (broker *Broker) HandleNewMessage(message *apiv1.Message) {
	state := &broker.state
	last := len(state.arrivals) - 1
	if last < 0 || state.arrivals[last].topic.Name != message.Topic {
		state.arrivals = append(state.arrivals, arrival{topic: broker.topicLocked(message.Topic)})
		last++
	}
	state.arrivals[last].count++
	topic := state.arrivals[last].topic
	if topic.fromPayload == 0 {
		state.payloadTopics = append(state.payloadTopics, topic)
	}
	topic.Dispatch(message)
	state.waitingMessages++
	state.queuedMessages++
	state.messagesAccepted++
	state.accountedBytes += messageBytes(message)
}

// topicLocked returns the topic with that name, and makes it if there is none.
func (broker *Broker) topicLocked(name string) *Topic {
	state := &broker.state
	topic := broker.topics[name]
	if topic == nil {
		topic = NewTopic(name)
		broker.topics[name] = topic
		state.accountedBytes += topicBytes(name)
		state.notices.add(notice{when: time.Now(), topic: topic})
	}
	return topic
}
