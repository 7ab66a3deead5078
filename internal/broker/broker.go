// Package broker is the message bus: it takes payloads in over TCP, keeps their
// messages in one FIFO queue a topic, and drains the queues into its log.
//
// Two goroutines do all the work. The loop (ProducerListen) serves one
// connection at a time, start to end, and queues its messages. The ticker
// goroutine (tick) drains the queues and alone writes the log; the loop hands it
// its own lines, the notices. What the two share is guarded by one mutex, which
// is never held while something is read or written, so neither waits for the
// other's input or output.
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
	input    []byte // the loop's buffer for payloads that are not large
	expected int    // its guess at the size of the next payload, in bytes

	log   logWriter // the ticker goroutine's
	batch batch     // the ticker goroutine's

	mutex    sync.Mutex // guards what follows, up to the next blank line
	topics   map[string]*Topic
	touched  []*Topic  // to which the payload in hand has brought messages
	arrivals []arrival // of the queued messages, in order
	notices  notices
	told     bool // the ticker goroutine was told of notices, and has not looked yet
	queued   int  // messages that are queued, or in the batch and not written
	cost     int  // what these and the topics take, in bytes: see messageCost
	full     bool // the last payload found no room: drain at once, and forget empty topics

	wake    chan struct{} // notices wait, or a drain is wanted
	written chan struct{} // messages were written
	ended   chan struct{} // closed: the ticker goroutine has ended

	serving  sync.Mutex    // held while ProducerListen runs
	stop     sync.Once     // closes stopping
	stopping chan struct{} // closed: take no more producers
}

// New returns a broker that listens as config says, and whose Addr works, but
// which serves nobody before ProducerListen. It keeps config, which must not be
// changed any more. Its error is config.Validate's, or tells why the address
// can't be listened on.
func New(config *BrokerConfig) (*Broker, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	listening := net.ListenConfig{KeepAlive: -1} // no connection lasts long enough for it
	listening.SetMultipathTCP(false)             // refuseConnections could not stop that
	address := net.JoinHostPort(config.ProducerHost, config.ProducerPort)
	listener, err := listening.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err // it says which address
	}
	broker := &Broker{
		config:   config,
		decoder:  decoder.NewMsgpackDecoder(config.MaxQueued / messageOverhead),
		encoder:  encoder.NewMsgpackEncoder(),
		listener: listener.(*net.TCPListener),
		input:    make([]byte, 0, minInput),
		topics:   make(map[string]*Topic),
		wake:     make(chan struct{}, 1),
		written:  make(chan struct{}, 1),
		ended:    make(chan struct{}),
		stopping: make(chan struct{}),
	}
	broker.log.start(cmp.Or[io.Writer](config.Log, os.Stderr))
	return broker, nil
}

// Addr returns the address that the broker listens on.
func (broker *Broker) Addr() net.Addr {
	return broker.listener.Addr()
}

// ProducerListen serves producers until Close, or until the log is gone. Then it
// drains all that is queued, and returns nil if everything was written. It may
// be called once.
func (broker *Broker) ProducerListen() error {
	broker.serving.Lock()
	defer broker.serving.Unlock()
	broker.notify("Broker: start listening for incoming producer messages...")
	broker.notify(fmt.Sprintf("Broker: listening on %s", broker.Addr()))

	served := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		result <- broker.tick(served)
		close(broker.ended)
		broker.stopAccepting()
	}()
	broker.serve()
	close(served)
	return broker.awaitEnd(result)
}

// Close makes ProducerListen serve the connection in hand and those that wait
// already, drain, and return, and waits until it has. It may be called at any
// time, by any goroutine, more than once.
func (broker *Broker) Close() {
	broker.stopAccepting()
	broker.serving.Lock()
	defer broker.serving.Unlock()
	broker.listener.Close()
}

// awaitEnd waits for the ticker goroutine's last drain, unless the log takes
// nothing for the time-out.
func (broker *Broker) awaitEnd(result <-chan error) error {
	const leastPatience = 200 * time.Millisecond // for a log that works
	patience := max(broker.config.Timeout, leastPatience)
	begin := time.Now()
	for wait := patience; wait > 0; {
		select {
		case err := <-result:
			if err != nil {
				return broker.unwritten(err)
			}
			return nil
		case <-time.After(wait):
		}
		last := time.Unix(0, broker.log.progress.Load())
		if last.Before(begin) {
			last = begin
		}
		wait = time.Until(last.Add(patience))
	}
	return broker.unwritten(fmt.Errorf("the log took nothing for %s", patience))
}

// unwritten adds to err how many messages are still queued.
func (broker *Broker) unwritten(err error) error {
	broker.mutex.Lock()
	defer broker.mutex.Unlock()
	return fmt.Errorf("messages not written: %d: %w", broker.queued, err)
}

// HandleNewMessage routes message, which must be checked, into its topic, which
// it makes if there is none. Only the loop may call it, and hold broker.mutex
// for all messages of a payload: so the drain sees the whole payload or nothing.
func (broker *Broker) HandleNewMessage(message *apiv1.Message) {
	var topic *Topic
	if last := len(broker.touched) - 1; last >= 0 && broker.touched[last].Name == message.Topic {
		topic = broker.touched[last] // as in most payloads, for less than the map takes
	} else {
		topic = broker.topics[message.Topic]
	}
	if topic == nil {
		topic = NewTopic(message.Topic)
		broker.topics[topic.Name] = topic
		broker.cost += topicCost(topic.Name)
	}
	if topic.brought == 0 {
		broker.touched = append(broker.touched, topic)
	}
	topic.Dispatch(message)
	broker.queued++
	broker.cost += messageCost(message)
	if last := len(broker.arrivals) - 1; last >= 0 && broker.arrivals[last].topic == topic {
		broker.arrivals[last].count++
	} else {
		broker.arrivals = append(broker.arrivals, arrival{topic, 1})
	}
}

// announce ends the queueing of a payload with its notices: the topics that it
// made, and how many messages it brought to which. The caller holds broker.mutex.
func (broker *Broker) announce() {
	now, keep := time.Now(), broker.notices.room()
	for _, topic := range broker.touched {
		if topic.made {
			broker.notices.add(keep, notice{when: now, topic: topic})
			topic.made = false
		}
	}
	for _, topic := range broker.touched {
		broker.notices.add(keep, notice{when: now, topic: topic, count: topic.brought})
		topic.brought = 0
	}
	clear(broker.touched)
	broker.touched = broker.touched[:0]
	broker.tell()
}

// notify hands a line of printable text to the ticker goroutine for the log.
func (broker *Broker) notify(line string) {
	broker.mutex.Lock()
	broker.notices.add(broker.notices.room(), notice{when: time.Now(), line: line})
	broker.tell()
	broker.mutex.Unlock()
}

// tell wakes the ticker goroutine for notices, once until it looks. The caller
// holds broker.mutex.
func (broker *Broker) tell() {
	if !broker.told {
		broker.told = true
		signal(broker.wake)
	}
}

// signal wakes the one goroutine that receives from channel, now or the next
// time that it looks. The channel must have room for one element.
func signal(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// closed tells whether channel, on which nothing is sent, is closed.
func closed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
