package consumer

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
)

// quietOutage is how long sending may fail before that is reported. The restart of a broker takes
// less.
const quietOutage = 5 * time.Second

// sender sends messages that failed to a topic. Several jobs use it, one at a time.
type sender struct {
	config   *Config
	mutex    sync.Mutex // held while a message is sent; guards producer
	producer *producer.Producer
}

// producerConfig returns the configuration of the producer for -failed.
func (c *Config) producerConfig() *producer.ProducerConfig {
	sending := producer.DefaultConfig()
	sending.Host = cmp.Or(c.Host, sending.Host)
	sending.Port = cmp.Or(c.Port, sending.Port)
	return sending
}

// newSender returns a sender, or nil without -failed.
func newSender(config *Config) (*sender, error) {
	if config.Failed == "" {
		return nil, nil
	}
	sending, err := producer.New(config.producerConfig())
	if err != nil {
		return nil, err
	}
	return &sender{config: config, producer: sending}, nil
}

// send sends a message until a broker accepts it. Each error is tried again, for ever, also if the
// broker may have accepted the message: it is sent at least once. At the end of ctx the error is
// errStopped.
func (f *sender) send(ctx context.Context, failed *message) error {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	messages := []*apiv1.Message{{Topic: f.config.Failed, Data: failed.Data}}
	first, isReported := time.Now(), false
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := f.producer.Send(ctx, messages)
		if err == nil {
			return nil
		}
		if !isReported && time.Since(first) >= quietOutage {
			isReported = true
			err = fmt.Errorf("sending to topic %s: %w; retrying", f.config.Failed, err)
			f.config.Report(failed.wrap(err).Error())
		}
		if !sleep(ctx, pause) {
			return errStopped
		}
	}
}
