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

// failedTopic sends messages that failed to the topic of -failed, one at a time. It is safe for
// concurrent use.
type failedTopic struct {
	config   *Config
	mutex    sync.Mutex // held while a message is sent; guards producer
	producer *producer.Producer
}

// producerConfig returns the configuration of the producer for -failed.
func (c *Config) producerConfig() *producer.ProducerConfig {
	p := producer.DefaultConfig()
	p.Host, p.Port = cmp.Or(c.Host, p.Host), cmp.Or(c.Port, p.Port)
	return p
}

// newFailedTopic returns a failedTopic, or nil without -failed.
func newFailedTopic(config *Config) (*failedTopic, error) {
	if config.Failed == "" {
		return nil, nil
	}
	p, err := producer.New(config.producerConfig())
	if err != nil {
		return nil, err
	}
	return &failedTopic{config: config, producer: p}, nil
}

// send sends a message until a broker accepts it. Each error is tried again, for ever, also if the
// broker may have accepted the message: it is sent at least once. At the end of ctx the error is
// errStopped.
func (f *failedTopic) send(ctx context.Context, m message) error {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	messages := []*apiv1.Message{{Topic: f.config.Failed, Data: m.Data}}
	first, isReported := time.Now(), false
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := f.producer.Send(ctx, messages)
		if err == nil {
			return nil
		}
		if !isReported && time.Since(first) >= quietOutage {
			isReported = true
			f.config.Report(fmt.Sprintf("%s: sending to topic %s: %v; retrying",
				m, f.config.Failed, err))
		}
		if !sleep(ctx, pause) {
			return errStopped
		}
	}
}
