// Package producer sends messages to an mbus broker and finds out what became of
// them. It is what the producer command does, as a library.
package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// maxReply is more than any reply of a broker takes, in bytes.
const maxReply = 4 << 10

// The pause before a payload is sent again doubles from minPause to maxPause.
const (
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// quietOutage is how long an outage is not worth a report. The restart of a broker is
// shorter.
const quietOutage = 5 * time.Second

// ErrUnknown is wrapped by the errors of Send after which the messages may have
// been accepted or not: sending them again may duplicate them. After any other
// error they were not accepted.
var ErrUnknown = errors.New("outcome unknown, sending again may duplicate")

// errForeign is wrapped by the errors that follow an answer of something else than mbus.
var errForeign = errors.New("the answer is not a reply of mbus, is -port right?")

// Refusal is wrapped by the errors of Send that tell the broker's own reason.
type Refusal string

// Error implements error. It says of the flags that a broker names in its reasons, such as
// -max-payload, that they are the broker's.
func (refusal Refusal) Error() string {
	return "refused: " + strings.Replace(string(refusal), "(-max-", "(the broker's -max-", 1)
}

// ProducerConfig is where a producer sends to.
type ProducerConfig struct {
	// Host and Port are the broker's address: an address or a name, and a
	// number from 1 to 65535.
	Host string
	Port string

	// Timeout bounds one payload, from dialling to the reply. Above 0.
	Timeout time.Duration

	// Retry is for how long a payload of which nothing can have been queued
	// is sent again: where there was no connection, where it was not sent or
	// received whole, and where the broker's refusal may pass. 0: not at all.
	Retry time.Duration

	// Report is called with a line of text when retrying has had no success for
	// 5 seconds, and when it has some after that. Send calls it, and waits for
	// it. It may be nil.
	Report func(line string)
}

// DefaultConfig returns the configuration for a broker that is told nothing.
func DefaultConfig() *ProducerConfig {
	return &ProducerConfig{Host: "127.0.0.1", Port: "9990", Timeout: 30 * time.Second}
}

// Validate returns nil if a producer can be made of config. Otherwise its error
// names the flag, its value and what would be right.
func (config *ProducerConfig) Validate() error {
	if config.Host == "" {
		return errors.New(`-host "": must be a host`)
	}
	_, err := netip.ParseAddr(config.Host)
	if err != nil && strings.ContainsAny(config.Host, ":/[]") {
		const want = "must be a name or an address alone, such as localhost or ::1; the port goes to -port"
		return fmt.Errorf("-host %q: %s", config.Host, want)
	}
	if port, err := strconv.ParseUint(config.Port, 10, 16); err != nil || port == 0 {
		return fmt.Errorf("-port %q: must be a number from 1 to 65535", config.Port)
	}
	if config.Timeout <= 0 {
		return fmt.Errorf("-timeout %v: must be a duration above 0, such as 30s", config.Timeout)
	}
	if config.Retry < 0 {
		return fmt.Errorf("-retry %v: must be a duration of at least 0, such as 30s", config.Retry)
	}
	return nil
}

// Producer sends payloads to one broker, each over a connection of its own. It is
// not safe for concurrent use.
type Producer struct {
	config  *ProducerConfig
	address string
	encoder encoder.Encoder
	decoder decoder.Decoder

	// An outage begins with the first attempt that fails, and ends with a success.
	outageSince    time.Time // zero before the first attempt after a success
	outageReported bool
}

// New returns a producer. It does not connect yet. Its error is config.Validate's.
func New(config *ProducerConfig) (*Producer, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Producer{
		config:  config,
		address: net.JoinHostPort(config.Host, config.Port),
		encoder: encoder.NewMsgpackEncoder(),
		decoder: decoder.NewMsgpackDecoder(0),
	}, nil
}

// Send sends messages as one payload and waits for the reply. It returns nil if
// the broker accepted all of them; it never accepts a part. The error is one line
// that names the broker's address; see ErrUnknown and Refusal. The end of ctx ends
// the attempts, but does not break off the one in hand.
func (producer *Producer) Send(ctx context.Context, messages []*apiv1.Message) error {
	payload, err := producer.encoder.Encode(messages)
	if err != nil {
		return notAccepted(err)
	}
	if producer.outageSince.IsZero() {
		producer.outageSince = time.Now()
	}
	err = producer.send(payload, len(messages))
	end := time.Now().Add(producer.config.Retry)
	for pause := minPause; retryable(err, len(messages)) && time.Now().Before(end); pause = min(2*pause, maxPause) {
		producer.reportOutage(err, end)
		select {
		case <-time.After(min(pause, time.Until(end))):
			err = producer.send(payload, len(messages))
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; %w", producer.address, err, context.Cause(ctx))
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", producer.address, err)
	}
	producer.endOutage()
	return nil
}

// reportOutage reports that attempts have failed for quietTime, lately with err, and go on
// until end, unless it has reported this outage before.
func (producer *Producer) reportOutage(err error, end time.Time) {
	if producer.outageReported || time.Since(producer.outageSince) < quietOutage {
		return
	}
	producer.outageReported = true
	left := time.Until(end).Round(time.Second)
	producer.report(fmt.Sprintf("%v; retrying for up to %s", err, left))
}

// endOutage is called after each success. It reports the end of an outage that was reported.
func (producer *Producer) endOutage() {
	if producer.outageReported {
		took := time.Since(producer.outageSince).Round(time.Second)
		producer.report(fmt.Sprintf("accepted after %s of retrying", took))
	}
	producer.outageSince, producer.outageReported = time.Time{}, false
}

// report calls the configured Report with the broker's address and text.
func (producer *Producer) report(text string) {
	if producer.config.Report != nil {
		producer.config.Report(producer.address + ": " + text)
	}
}

// retryable reports whether err, which send returned for count messages, leaves it certain
// that none was queued, and likely that all are accepted later.
func retryable(err error, count int) bool {
	var refusal Refusal
	if !errors.As(err, &refusal) {
		return err != nil && !errors.Is(err, ErrUnknown)
	}
	reason := string(refusal)
	// What goes in parts is not sent again as a whole, for it may be too much for the link.
	inParts := count > 1 && apiv1.Splittable(reason)
	return apiv1.Retryable(reason) && !inParts
}

// send sends a payload of count messages once.
func (producer *Producer) send(payload []byte, count int) error {
	deadline := time.Now().Add(producer.config.Timeout)
	dialer := net.Dialer{Deadline: deadline}
	connection, err := dialer.Dial("tcp", producer.address)
	if err != nil {
		return notAccepted(producer.cause(err))
	}
	defer connection.Close()
	connection.SetDeadline(deadline)

	_, sendErr := connection.Write(payload)
	if sendErr == nil {
		sendErr = connection.(*net.TCPConn).CloseWrite()
	}
	// Also after an error: a broker that refuses a payload before its end says
	// why, and then hangs up.
	reply, err := producer.readReply(connection)
	switch {
	case err == nil && reply.Accepted == 0 && reply.Error != "":
		return Refusal(reply.Error)
	case errors.Is(err, errForeign) && sendErr != nil:
		return notAccepted(fmt.Errorf("sending broke off: %w; %w", producer.cause(sendErr), err))
	case sendErr != nil:
		return notAccepted(fmt.Errorf("sending broke off: %w", producer.cause(sendErr)))
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	case reply.Accepted != count || reply.Error != "":
		return fmt.Errorf("%w: the broker answers %d accepted of %d, %q", ErrUnknown, reply.Accepted, count, reply.Error)
	}
	return nil
}

// notAccepted returns the error for messages that were not accepted because of err.
func notAccepted(err error) error {
	return fmt.Errorf("not accepted: %w", err)
}

// readReply reads until the broker hangs up.
func (producer *Producer) readReply(connection net.Conn) (*apiv1.Reply, error) {
	answer, err := io.ReadAll(io.LimitReader(connection, maxReply))
	reply, wrong := producer.decoder.DecodeReply(answer)
	switch {
	case wrong == nil:
		return reply, nil
	case len(answer) == 0 && err != nil:
		return nil, producer.cause(err)
	case len(answer) == 0:
		return nil, errors.New("the connection ended without a reply")
	case err != nil: // such as a server that speaks first and then waits
		wrong = fmt.Errorf("%w; %w", wrong, producer.cause(err))
	}
	return nil, fmt.Errorf("%w %w", errForeign, wrong)
}

// cause returns what is behind a network error, without the addresses: the error
// of Send names the broker's.
func (producer *Producer) cause(err error) error {
	// The dialler has its own error for its deadline.
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no end within %s", producer.config.Timeout)
	}
	var operation *net.OpError
	if errors.As(err, &operation) {
		return operation.Err
	}
	return err
}
