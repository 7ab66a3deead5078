package broker

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"mbus/internal/shared/address"
)

// BrokerConfig is the configuration of a broker. Each field but Log is a flag of the broker
// command: ProducerHost is -phost, ProducerPort is -pport, LogFile is -log, and each other
// field has its flag's name.
type BrokerConfig struct {
	// The broker listens for producers on ProducerHost, an address or a name, and
	// ProducerPort, a number. 0: a free port. A ProducerHost with a slash is the path of a
	// Unix socket. Then ProducerPort must be valid too, but is not used.
	ProducerHost string
	ProducerPort string

	// Interval is the time from one drain to the next. At 0 every payload is
	// drained before its reply is sent.
	Interval time.Duration

	// Timeout is the time limit of a connection, above 0. It covers reading the
	// payload, waiting for room in the queue and, at interval 0, the drain. Sending the
	// reply and discarding unread input have one second more. A broker that stops gives
	// up when its log has taken nothing for Timeout.
	Timeout time.Duration

	// MaxPayload is the largest payload in bytes, at least 1.
	MaxPayload int

	// MaxQueued is the limit of all that is queued, in bytes, at least 1. A message
	// counts as its data, its topic's name and 128 bytes, and a topic as its name and 512
	// bytes.
	MaxQueued int

	// LogFile is the path of the log. When its file is renamed, the broker opens the path
	// anew. Empty: the log is Log.
	LogFile string

	// Sync means that a message counts as written only when it is on disk. It needs
	// LogFile.
	Sync bool

	// Metrics is the path of the file of counts, which are in the text format of Prometheus.
	// The broker replaces it every 10 seconds. Empty: there is none.
	Metrics string

	// The broker writes its log to Log. With LogFile it writes only a line to Log each time
	// that the log starts to fail. nil: standard error.
	//
	// While the broker serves, one goroutine writes to Log. After an error it tries again,
	// unless the error shows that the log is gone. Then the broker ends. Such an error wraps
	// syscall.EPIPE, syscall.EBADF, io.ErrClosedPipe or os.ErrClosed, or, if Log is not a
	// regular file, syscall.EIO.
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

// Validate returns nil if config is valid. Otherwise its error names a flag, its value and what
// would be right.
func (c *BrokerConfig) Validate() error {
	wrong := func(flag string, value any, want string) error {
		return fmt.Errorf("-%s %v: must be %s", flag, value, want)
	}
	_, _, wrongHost := address.Parse(c.ProducerHost, c.ProducerPort)
	_, wrongPort := strconv.ParseUint(c.ProducerPort, 10, 16)
	switch {
	case wrongHost != nil:
		return fmt.Errorf("-phost %q: %w", c.ProducerHost, wrongHost)
	case wrongPort != nil:
		return wrong("pport", strconv.Quote(c.ProducerPort),
			"a number from 0 to 65535, 0 for a free port")
	case c.Interval < 0:
		return wrong("interval", c.Interval, "a duration of at least 0, such as 3s")
	case c.Timeout <= 0:
		return wrong("timeout", c.Timeout, "a duration above 0, such as 5s")
	case c.MaxPayload < 1:
		return wrong("max-payload", c.MaxPayload, "a count of bytes, at least 1")
	case c.MaxQueued < 1:
		return wrong("max-queued", c.MaxQueued, "a count of bytes, at least 1")
	case c.Sync && c.LogFile == "":
		return errors.New("-sync without -log: must be with the log to sync")
	}
	return nil
}

// MemoryLimit returns the argument of debug.SetMemoryLimit, in bytes, for a process that is
// one broker. With it the resident memory stays under 8 MiB + 2.5 * MaxQueued + 6 * MaxPayload. The
// first term is the program, which debug.SetMemoryLimit does not count. The second is the
// queued messages and the growth of their memory. The third is the garbage of a few payloads.
func (c *BrokerConfig) MemoryLimit() int64 {
	const (
		least  = 4 << 20 // memory of an idle broker
		margin = 0.9     // large allocations exceed the limit, which is soft
	)
	limit := margin * (2.5*float64(c.MaxQueued) + 6*float64(c.MaxPayload))
	return int64(min(max(limit, least), 1<<62))
}
