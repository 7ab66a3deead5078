package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/follow"
)

const (
	// stopPatience is how long a forwarder that is to stop waits for an answer.
	stopPatience = time.Second

	// saveInterval is how often the place is saved while there is more to send.
	saveInterval = 100 * time.Millisecond

	// The pauses before another session, the first and the longest.
	minPause = time.Second
	maxPause = 30 * time.Second
)

// The headers of an atomic batch, and of the place where it must come: see ADR-50 of the
// engine's architecture documents, and the engine's source.
const (
	batchID          = "Nats-Batch-Id"
	batchSequence    = "Nats-Batch-Sequence"
	batchCommit      = "Nats-Batch-Commit"
	expectedSequence = "Nats-Expected-Last-Sequence"
	expectedStream   = "Nats-Expected-Stream"
)

// The engine's error codes for a message larger than max_msg_size, and for one that the
// stream should have had at another place.
const (
	tooLargeCode  jetstream.ErrorCode = 10054
	misplacedCode                     = jetstream.JSErrCodeStreamWrongLastSequence
)

// errStopped is the error of a session that was stopped.
var errStopped = errors.New("stopped")

// finalError is an error that another session would not change.
type finalError struct{ error }

func (err finalError) Unwrap() error { return err.error }

func finalf(format string, arguments ...any) error {
	return final(fmt.Errorf(format, arguments...))
}

// final makes err a finalError; nil stays nil.
func final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{err}
}

func isFinal(err error) bool {
	_, is := errors.AsType[finalError](err)
	return is
}

// forwarder carries messages from a log into a stream, as its config says.
type forwarder struct {
	config *config
	report func(line string)
	log    *follow.Follower
	state  *follow.State

	place   *place // nil: there is none yet
	saved   place  // by this process
	savedAt time.Time

	last  uint64 // the stream's last sequence, as far as this process knows
	doubt bool   // the stream may have taken messages beyond place, or may still do so
	limit int    // how many messages are sent as one batch

	away  time.Time // when sending failed; zero: a batch was taken since then
	pause time.Duration
}

// run forwards until ctx ends. Its error is one that another session would not change.
func (forwarder *forwarder) run(ctx context.Context) error {
	forwarder.limit, forwarder.pause = maxMessages, minPause
	for {
		err := forwarder.session(ctx)
		switch {
		case isFinal(err):
			return err
		case ctx.Err() != nil:
			return forwarder.save(forwarder.doubt)
		case errors.Is(err, follow.ErrLost):
			continue
		case forwarder.away.IsZero():
			forwarder.away = time.Now()
			forwarder.report(fmt.Sprintf("%s: %v; trying again", forwarder.config.servers, err))
		}
		select {
		case <-time.After(forwarder.pause):
		case <-ctx.Done():
		}
		forwarder.pause = min(2*forwarder.pause, maxPause)
	}
}

// session is a forwarder with a connection.
type session struct {
	*forwarder
	ctx        context.Context // ends with the connection; its cause says why
	connection *nats.Conn
	stream     jetstream.Stream

	current, next batch // what is sent, and what is read meanwhile
}

// session runs one session, until an error or the end of stop. Where that ended the session,
// or the connection did, the error says so.
func (forwarder *forwarder) session(stop context.Context) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer context.AfterFunc(stop, func() {
		time.AfterFunc(stopPatience, func() { cancel(errStopped) })
	})()
	session := &session{forwarder: forwarder, ctx: ctx}
	err := session.run(stop, cancel)
	switch {
	case isFinal(err), err == nil:
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled):
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s", forwarder.config.timeout)
	}
	return err
}

// run connects, finds the place, and forwards. The client does not reconnect: only the
// stream's end says what a lost connection has left behind.
func (session *session) run(stop context.Context, cancel context.CancelCauseFunc) (err error) {
	options := session.config.client
	options.CustomDialer = dialer{session.ctx, options.Timeout}
	options.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) { cancel(err) }
	options.ClosedCB = func(connection *nats.Conn) {
		cancel(fmt.Errorf("disconnected: %w", cmp.Or(connection.LastError(), nats.ErrConnectionClosed)))
	}
	if session.connection, err = options.Connect(); err != nil {
		cancel(nil)
		return err
	}
	defer session.connection.Close()
	defer cancel(nil) // first, so that what Close waits for ends
	if err := session.open(); err != nil {
		return err
	}
	if err := session.find(); err != nil {
		return err
	}
	return session.forward(stop)
}

// dialer makes connections that are closed when ctx ends, whatever waits for them.
type dialer struct {
	ctx     context.Context
	timeout time.Duration
}

// Dial implements nats.CustomDialer.
func (dialer dialer) Dial(network, address string) (net.Conn, error) {
	plain := net.Dialer{Timeout: dialer.timeout}
	connection, err := plain.DialContext(dialer.ctx, network, address)
	if err == nil {
		context.AfterFunc(dialer.ctx, func() { connection.Close() })
	}
	return connection, err
}

// open opens the stream, and checks that it takes what is to come: an older server, or
// another configuration, would store each message of a batch by itself. The error shows the
// command that makes it right.
func (session *session) open() error {
	name, prefix := session.config.stream, session.config.prefix
	timeout := jetstream.WithDefaultTimeout(session.config.timeout)
	engine, err := jetstream.New(session.connection, timeout)
	if err == nil {
		session.stream, err = engine.Stream(session.ctx, name)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return finalf("there is no stream %s: "+
			"nats stream add %s --subjects '%s>' --allow-batch --defaults", name, name, prefix)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	stream := session.stream.CachedInfo().Config
	isCovered, subjects := false, ""
	for _, subject := range stream.Subjects {
		isCovered = isCovered || covers(subject, prefix)
		subjects += subject + ","
	}
	switch {
	case !stream.AllowAtomicPublish:
		return finalf("stream %s takes no atomic batches, as of nats-server 2.12 and later: "+
			"nats stream edit %s --allow-batch", name, name)
	case stream.NoAck:
		return finalf("stream %s acknowledges nothing: nats stream edit %s --ack", name, name)
	case !isCovered:
		return finalf("stream %s does not take all subjects below -prefix %s: "+
			"nats stream edit %s --subjects '%s%s>'", name, prefix, name, subjects, prefix)
	}
	return nil
}

// forward sends what the log has, and what comes.
func (session *session) forward(stop context.Context) error {
	for stop.Err() == nil {
		err := session.read(&session.current, maxMessages)
		if len(session.current.messages) > 0 { // those before an error too: it comes again
			err = session.exchange()
		} else if err == nil {
			session.place.position = session.current.end
			err = session.save(true)
			session.log.Wait(stop)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// exchange sends the current batch, and makes the next one current when it was taken. While
// the answer is awaited, it reads the next one. The log is durable up to what is sent:
// otherwise a power loss could leave the stream ahead of it.
func (session *session) exchange() error {
	if !session.saved.pending { // the state must say that something may be
		if err := session.save(true); err != nil {
			return err
		}
	}
	if err := session.log.Sync(); err != nil {
		return final(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- session.deliver(session.current.messages) }()
	if session.current.size < 2*fullSize { // otherwise memory is for what is larger
		session.read(&session.next, maxMessages) // an error comes again
		session.log.Sync()                       // here too
	}
	var saving error
	if time.Since(session.savedAt) > saveInterval {
		saving = session.save(true)
	}
	if err := cmp.Or(<-answer, saving); err != nil {
		return err
	}
	current := &session.current
	session.place = &place{position: current.end, sequence: session.last, hash: current.hash()}
	session.doubt = false
	session.current, session.next = session.next, batch{}
	return nil
}

// deliver sends messages as one batch, or as several if the engine does not take so many.
func (session *session) deliver(messages []message) error {
	for first := 0; first < len(messages); {
		count := min(len(messages)-first, session.limit)
		err := session.send(messages[first : first+count])
		refusal, isRefusal := errors.AsType[*jetstream.APIError](err)
		isTooLarge := errors.Is(err, nats.ErrMaxPayload) ||
			isRefusal && refusal.ErrorCode == tooLargeCode
		isMisplaced := isRefusal && refusal.ErrorCode == misplacedCode
		switch {
		case err == nil:
			first += count
			session.acknowledged(count)
		case isMisplaced && !session.doubt:
			return finalf("stream %s should end at %d: %w: somebody else publishes to it, "+
				"or it was made anew", session.config.stream, session.last, refusal)
		case count > 1 && (isTooLarge || isRefusal && !isMisplaced):
			session.limit = count / 2
		case isTooLarge:
			return session.tooLarge(first)
		default:
			return err
		}
	}
	return nil
}

// tooLarge returns the error for a message of the current batch.
func (session *session) tooLarge(index int) error {
	message := &session.current.messages[index]
	return finalf("message %d after offset %d of %s is too large for the engine: %d bytes for %s, "+
		"and headers; max_payload is %d, max_msg_size %d (-1: no limit)",
		index+1, session.place.position.Offset, session.config.log, len(message.data),
		message.subject, session.connection.MaxPayload(),
		session.stream.CachedInfo().Config.MaxMsgSize)
}

// acknowledged counts messages that the stream has taken.
func (session *session) acknowledged(count int) {
	session.last += uint64(count)
	session.limit = min(session.limit+session.limit/10+1, maxMessages)
	session.pause = minPause
	if !session.away.IsZero() {
		session.report(fmt.Sprintf("%s: back after %s",
			session.config.servers, time.Since(session.away).Round(time.Second)))
		session.away = time.Time{}
	}
}

// send sends messages as one atomic batch after the stream's last, and awaits the answer.
// Only an error of the engine's is certain to mean that the stream does not take it.
func (session *session) send(messages []message) error {
	id, end := rand.Text(), len(messages)-1
	wire := &nats.Msg{Header: nats.Header{
		batchID:          {id},
		expectedSequence: {strconv.FormatUint(session.last, 10)},
		expectedStream:   {session.config.stream},
	}}
	for i, message := range messages {
		wire.Subject, wire.Data = message.subject, message.data
		wire.Header[batchSequence] = []string{strconv.Itoa(i + 1)}
		if i == end {
			break
		}
		if err := session.connection.PublishMsg(wire); err != nil {
			return err // without its last message it is no batch
		}
		delete(wire.Header, expectedSequence)
		delete(wire.Header, expectedStream)
	}
	wire.Header[batchCommit] = []string{"1"}
	ctx, cancel := context.WithTimeout(session.ctx, session.config.timeout)
	defer cancel()
	doubt := session.doubt
	session.doubt = true
	reply, err := session.connection.RequestMsgWithContext(ctx, wire)
	if errors.Is(err, nats.ErrMaxPayload) { // it was not sent
		session.doubt = doubt
	}
	if err != nil {
		return err
	}
	err = session.check(reply.Data, id, len(messages))
	if refusal, isRefusal := errors.AsType[*jetstream.APIError](err); isRefusal && refusal.Code < 500 {
		session.doubt = doubt
	}
	return err
}

// check returns nil if reply says that the stream has taken a batch at its place.
func (session *session) check(reply []byte, id string, count int) error {
	var answer struct {
		Stream   string              `json:"stream"`
		Sequence uint64              `json:"seq"`
		Batch    string              `json:"batch"`
		Count    int                 `json:"count"`
		Error    *jetstream.APIError `json:"error"`
	}
	err := json.Unmarshal(reply, &answer)
	if err == nil && answer.Error != nil {
		return answer.Error
	}
	isRight := answer.Stream == session.config.stream && answer.Batch == id &&
		answer.Count == count && answer.Sequence == session.last+uint64(count)
	if err != nil || !isRight {
		return fmt.Errorf("the answer to %d messages after %d is %.200q: "+
			"does something besides the stream answer?", count, session.last, reply)
	}
	return nil
}
