package broker

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// BrokerConfig is what an operator can set. Each field but Log has the name of
// its flag of the broker command; LogFile is -log.
type BrokerConfig struct {
	// ProducerHost and ProducerPort are where the broker listens for
	// producers: an address or a name, and a number (0: a free port).
	ProducerHost string
	ProducerPort string

	// Interval is the time from one drain to the next. At 0 every payload is
	// drained before its reply is sent.
	Interval time.Duration

	// Timeout bounds a connection: reading its payload and waiting for room
	// in the queue, or for the drain, altogether. The reply and the
	// discarding of unread input have one second more. It is also how long a
	// stopping broker waits for a log that takes nothing. Above 0.
	Timeout time.Duration

	// MaxPayload is the largest payload in bytes, at least 1.
	MaxPayload int

	// MaxQueued bounds what is queued, in bytes, at least 1. See messageBytes
	// and topicBytes for what counts.
	MaxQueued int

	// LogFile is the path of the log, which the broker opens itself and opens anew
	// when it was renamed. Empty: the log is Log.
	LogFile string

	// Sync has what a drain wrote count as written only when it is on disk. It
	// needs LogFile.
	Sync bool

	// Log takes the broker's log, or, with LogFile, one line when that fails;
	// nil means standard error. While the broker
	// is listening, one goroutine writes to it. After an error the write is
	// tried again, unless the error wraps syscall.EPIPE or EBADF,
	// io.ErrClosedPipe or os.ErrClosed, or syscall.EIO of what is not a regular
	// file. These end the broker.
	Log io.Writer
}

// DefaultConfig returns the configuration of a broker without flags.
func DefaultConfig() *BrokerConfig {
	return &BrokerConfig{
		ProducerHost: "127.0.0.1",
		ProducerPort: "9990",
		Interval:     3 * time.Second,
		Timeout:      5 * time.Second,
		MaxPayload:   16 << 20,
		MaxQueued:    256 << 20,
	}
}

// Validate returns nil if a broker can be made of config. Otherwise its error
// names the flag, its value and what would be right.
func (config *BrokerConfig) Validate() error {
	wrong := func(flag string, value any, want string) error {
		return fmt.Errorf("-%s %v: must be %s", flag, value, want)
	}
	if config.ProducerHost == "" {
		return wrong("phost", `""`, "a host, 0.0.0.0 for all interfaces")
	}
	if _, err := strconv.ParseUint(config.ProducerPort, 10, 16); err != nil {
		return wrong("pport", strconv.Quote(config.ProducerPort), "a number from 0 to 65535, 0 for a free port")
	}
	if config.Interval < 0 {
		return wrong("interval", config.Interval, "a duration of at least 0, such as 3s")
	}
	if config.Timeout <= 0 {
		return wrong("timeout", config.Timeout, "a duration above 0, such as 5s")
	}
	if config.MaxPayload < 1 {
		return wrong("max-payload", config.MaxPayload, "a count of bytes, at least 1")
	}
	if config.MaxQueued < 1 {
		return wrong("max-queued", config.MaxQueued, "a count of bytes, at least 1")
	}
	if config.Sync && config.LogFile == "" {
		return errors.New("-sync: must come with -log, whose file it syncs")
	}
	return nil
}

// MemoryLimit returns how much memory, in bytes, a process that is one broker
// should have the garbage collector aim at. It keeps the resident memory under
// 8 MiB + 2.5 * MaxQueued + 6 * MaxPayload: the program, what is queued and its
// growth, and the garbage of a few payloads. It is for debug.SetMemoryLimit, which
// does not count the program itself.
func (config *BrokerConfig) MemoryLimit() int64 {
	const (
		least  = 4 << 20 // what an idle broker takes
		margin = 0.9     // the limit is a soft one: large allocations overshoot it
	)
	limit := margin * (2.5*float64(config.MaxQueued) + 6*float64(config.MaxPayload))
	return int64(min(max(limit, least), 1<<62))
}
