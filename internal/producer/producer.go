// Package producer sends messages to an mbus broker and reports whether they were accepted.
// It is what the producer command does, as a library.
package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/address"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

const (
	// maxReply is more than the size of any reply, in bytes.
	maxReply = 4 << 10

	// The pause before each retry doubles from minPause to maxPause.
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second

	// fullPause is the pause before the next try at a Unix socket whose backlog is full.
	fullPause = 5 * time.Millisecond

	// quietOutage is how long an outage lasts before it is reported. The restart of a
	// broker takes less.
	quietOutage = 5 * time.Second
)

// ErrUnknown is wrapped by the errors of Send after which the messages may have been
// accepted: sending them again may duplicate them. After any other error none was accepted.
var ErrUnknown = errors.New("outcome unknown, sending again may duplicate")

// errForeign is wrapped by the errors about an answer that no broker sends.
var errForeign = errors.New("the answer is not a reply of mbus, is -port right?")

// Refusal is the reason for which a broker refused a payload. It is wrapped by the errors of
// Send after a refusal. Package apiv1 lists the reasons.
type Refusal string

// Error implements error. It marks a flag that the reason names, such as -max-payload, as
// the broker's.
func (r Refusal) Error() string {
	return "refused: " + strings.Replace(string(r), "(-max-", "(the broker's -max-", 1)
}

// ProducerConfig says where and how a producer sends.
type ProducerConfig struct {
	// Host is the broker's host name or IP address. Port is its port, from 1 to 65535. A Host
	// with a slash is the path of the broker's Unix socket. Then Port must be valid too, but is
	// not used.
	Host string
	Port string

	// Timeout is the time limit of one attempt to send a payload, from connecting to the
	// reply. It is above 0.
	Timeout time.Duration

	// Retry is how long to retry a payload that was certainly not accepted: there was no
	// connection, the payload was not sent or received whole, or apiv1.Retryable holds
	// for the refusal. 0: do not retry.
	Retry time.Duration

	// AtLeastOnce means to retry also what may have been accepted, so that the broker may have
	// it as often as it was tried. It needs Retry.
	AtLeastOnce bool

	// Report is called with one line of text when retries have failed for 5 seconds, and
	// once more when a later one succeeds. Send and Ping wait for Report. nil: do not report.
	Report func(line string)
}

// DefaultConfig returns the configuration for a broker on this machine that has the default
// port.
func DefaultConfig() *ProducerConfig {
	return &ProducerConfig{Host: "127.0.0.1", Port: "9990", Timeout: 30 * time.Second}
}

// Validate returns nil if the configuration is valid. Otherwise its error names a flag, its value
// and what would be right.
func (c *ProducerConfig) Validate() error {
	if _, _, err := address.Parse(c.Host, c.Port); err != nil {
		return fmt.Errorf("-host %q: %w", c.Host, err)
	}
	if port, err := strconv.ParseUint(c.Port, 10, 16); err != nil || port == 0 {
		return fmt.Errorf("-port %q: must be a number from 1 to 65535", c.Port)
	}
	if c.Timeout <= 0 {
		return fmt.Errorf("-timeout %v: must be a duration above 0, such as 30s", c.Timeout)
	}
	if c.Retry < 0 {
		return fmt.Errorf("-retry %v: must be a duration of at least 0, such as 30s", c.Retry)
	}
	if c.AtLeastOnce && c.Retry == 0 {
		return errors.New("-at-least-once without -retry: must be with the time to retry")
	}
	return nil
}

// Producer sends payloads to one broker, each over a connection of its own. It is not safe
// for concurrent use.
type Producer struct {
	config  *ProducerConfig
	network string // see net.Dial
	address string

	doubtful int // how many of the next messages may have been accepted in an earlier attempt

	outageSince    time.Time // start of the first attempt since the last success
	outageReported bool
}

// New returns a producer, which does not connect yet. The producer keeps config, which must
// not change afterwards. The error is that of config.Validate.
func New(config *ProducerConfig) (*Producer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	network, address, _ := address.Parse(config.Host, config.Port) // as Validate did
	return &Producer{config: config, network: network, address: address}, nil
}

// Send sends messages as one payload and waits for the reply. It returns nil if the broker
// accepted all messages; a broker never accepts a part. Otherwise the error is one line that
// names the broker's address. It may wrap ErrUnknown or a Refusal.
//
// When ctx ends, Send completes the attempt in progress and does not start another.
func (p *Producer) Send(ctx context.Context, messages []*apiv1.Message) error {
	p.doubtful = 0
	return p.send(ctx, messages)
}

// send is Send for the next messages of a stream.
func (p *Producer) send(ctx context.Context, messages []*apiv1.Message) error {
	payload, err := encoder.NewMsgpackEncoder().Encode(messages)
	if err != nil {
		return notAccepted(err)
	}
	count := len(messages)
	err = p.retry(ctx, "accepted",
		func() error { return p.attempt(payload, count) },
		func(err error) bool { return p.retryable(err, count) })
	if err != nil {
		return p.inDoubt(err)
	}
	p.doubtful = max(p.doubtful-count, 0)
	return nil
}

// inDoubt adds ErrUnknown to err if the next messages may have been accepted in an earlier attempt.
func (p *Producer) inDoubt(err error) error {
	if p.doubtful > 0 && !errors.Is(err, ErrUnknown) {
		return fmt.Errorf("%w; of an earlier attempt: %w", err, ErrUnknown)
	}
	return err
}

// Ping sends an empty payload, which leaves no trace in the broker's log, and waits for the
// reply. It returns nil if the broker replies. Otherwise the error is one line that names the
// broker's address. It may wrap a Refusal, but not ErrUnknown: nothing was sent.
//
// Ping retries for the configured time after any error. When ctx ends, it completes the
// attempt in progress and does not start another.
func (p *Producer) Ping(ctx context.Context) error {
	return p.retry(ctx, "answered", p.ping, func(error) bool { return true })
}

// retry makes attempts for the configured time, until one succeeds or retryable returns
// false for its error. It returns the last error, with the broker's address. The report of an
// outage's end begins with success.
func (p *Producer) retry(
	ctx context.Context, success string, attempt func() error, retryable func(error) bool,
) error {
	if p.outageSince.IsZero() {
		p.outageSince = time.Now()
	}
	err := attempt()
	end, pause := time.Now().Add(p.config.Retry), minPause
	for err != nil && retryable(err) && time.Now().Before(end) {
		p.reportOutage(err, end)
		select {
		case <-time.After(min(pause, time.Until(end))):
			err = attempt()
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; %w", p.address, err, context.Cause(ctx))
		}
		pause = min(2*pause, maxPause)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.address, err)
	}
	p.endOutage(success)
	return nil
}

// reportOutage reports err, the error of the last attempt, and for how long retries continue:
// until end. It reports an outage once, and not before quietOutage has passed.
func (p *Producer) reportOutage(err error, end time.Time) {
	if p.outageReported || time.Since(p.outageSince) < quietOutage {
		return
	}
	p.outageReported = true
	left := time.Until(end).Round(time.Second)
	p.report("%v; retrying for up to %s", err, left)
}

// endOutage records a success. If the outage was reported, it reports the outage's end.
func (p *Producer) endOutage(success string) {
	if p.outageReported {
		took := time.Since(p.outageSince).Round(time.Second)
		p.report("%s after %s of retrying", success, took)
	}
	p.outageSince, p.outageReported = time.Time{}, false
}

// report reports a line of the broker's address and the text that the format gives.
func (p *Producer) report(format string, arguments ...any) {
	if p.config.Report != nil {
		p.config.Report(p.address + ": " + fmt.Sprintf(format, arguments...))
	}
}

// retryable reports whether to retry a payload of count messages after err, which is not nil. After
// a refusal, that depends on its reason. After any other error it is true, unless the messages may
// have been accepted and AtLeastOnce is not set.
func (p *Producer) retryable(err error, count int) bool {
	var refusal Refusal
	if !errors.As(err, &refusal) {
		return p.config.AtLeastOnce || !errors.Is(err, ErrUnknown)
	}
	if count > 1 && apiv1.Splittable(string(refusal)) {
		return false // the whole may be too much for a slow link
	}
	return apiv1.Retryable(string(refusal))
}

// attempt sends a payload of count messages once and waits for the reply.
func (p *Producer) attempt(payload []byte, count int) error {
	reply, sent, err := p.exchange(payload)
	switch {
	case reply != nil && reply.Accepted == 0 && reply.Error != "":
		return Refusal(reply.Error)
	case !sent:
		return notAccepted(err)
	case err == nil && *reply == apiv1.Reply{Accepted: count}:
		return nil
	case err == nil:
		err = fmt.Errorf("the broker answers %d accepted of %d, %q",
			reply.Accepted, count, reply.Error)
	}
	p.doubtful = max(p.doubtful, count)
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// ping sends an empty payload once and waits for the reply.
func (p *Producer) ping() error {
	reply, _, err := p.exchange(nil)
	switch {
	case reply != nil && reply.Error != "":
		return Refusal(reply.Error)
	case err != nil:
		return err
	case reply.Accepted != 0:
		return fmt.Errorf("the broker answers %d accepted of 0", reply.Accepted)
	}
	return nil
}

// exchange sends a payload once and reads the reply. It returns whether the payload was sent
// whole. If not, the error is not nil, and there may be a reply all the same: a broker that
// refuses a payload early replies and closes.
func (p *Producer) exchange(payload []byte) (reply *apiv1.Reply, sent bool, err error) {
	deadline := time.Now().Add(p.config.Timeout)
	connection, err := p.dial(deadline)
	if err != nil {
		return nil, false, p.cause(err)
	}
	defer connection.Close()
	connection.SetDeadline(deadline)

	_, sendErr := connection.Write(payload)
	if sendErr == nil {
		sendErr = connection.(interface{ CloseWrite() error }).CloseWrite()
	}
	reply, err = p.readReply(connection)
	if sendErr == nil {
		return reply, true, err
	}
	sendErr = fmt.Errorf("sending broke off: %w", p.cause(sendErr))
	if errors.Is(err, errForeign) {
		sendErr = fmt.Errorf("%w; %w", sendErr, err)
	}
	return reply, false, sendErr
}

// dial connects to the broker. While the backlog of a Unix socket is full, Linux says EAGAIN at
// once. Then dial tries again until the deadline, as the kernel does for TCP.
func (p *Producer) dial(deadline time.Time) (net.Conn, error) {
	dialer := net.Dialer{Deadline: deadline}
	for {
		connection, err := dialer.Dial(p.network, p.address)
		if !errors.Is(err, syscall.EAGAIN) {
			return connection, err
		}
		time.Sleep(fullPause)
	}
}

// notAccepted wraps err, after which no message can have been queued.
func notAccepted(err error) error {
	return fmt.Errorf("not accepted: %w", err)
}

// readReply reads the reply, up to the end of the connection.
func (p *Producer) readReply(connection net.Conn) (*apiv1.Reply, error) {
	answer, err := io.ReadAll(io.LimitReader(connection, maxReply))
	reply, wrong := decoder.DecodeReply(answer)
	switch {
	case wrong == nil:
		return reply, nil
	case len(answer) == 0 && err != nil:
		return nil, p.cause(err)
	case len(answer) == 0:
		return nil, errors.New("the connection ended without a reply")
	case err != nil: // a server that speaks first and then waits, until the deadline
		wrong = fmt.Errorf("%w; %w", wrong, p.cause(err))
	}
	return nil, fmt.Errorf("%w %w", errForeign, wrong)
}

// cause returns the reason of a network error, without the addresses, because Send adds the
// broker's.
func (p *Producer) cause(err error) error {
	// net.Dialer has an error of its own for its deadline.
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("timed out after %s", p.config.Timeout)
	}
	var operation *net.OpError
	if errors.As(err, &operation) {
		return operation.Err
	}
	return err
}
