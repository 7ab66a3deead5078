package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// awayError is an error of the engine or of the network. Another session may succeed after
// it. Any other error ends the forwarder.
type awayError struct{ error }

// away returns the awayError for err, which a call of the library returned.
func (f *forwarder) away(err error) error {
	if lost := f.connection.LastError(); lost != nil {
		err = fmt.Errorf("disconnected: %w", lost)
	} else if errors.Is(err, nats.ErrTimeout) {
		err = fmt.Errorf("no answer within %s", f.config.timeout)
	} else if errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("JetStream is off, not there for this account, or without stream %s: %w",
			f.config.stream, err)
	}
	return awayError{err}
}

// ask sends a request to the stream's API, and decodes the answer.
func (f *forwarder) ask(operation, request string, answer any) error {
	subject := fmt.Sprintf("$JS.API.STREAM.%s.%s", operation, f.config.stream)
	reply, err := f.connection.Request(subject, []byte(request), f.config.timeout)
	if err != nil {
		return err
	}
	return decode(reply.Data, answer)
}

// decode loads reply, which is JSON, into answer. If the engine has refused the request, the
// error is a jetstream.APIError.
func decode(reply []byte, answer any) error {
	var refusal struct{ Error *jetstream.APIError }
	err := json.Unmarshal(reply, &refusal)
	if err == nil && refusal.Error != nil {
		return refusal.Error
	}
	return cmp.Or(err, json.Unmarshal(reply, answer))
}

// look asks for the stream's configuration and end, and checks the configuration.
func (f *forwarder) look() error {
	name, prefix := f.config.stream, f.config.prefix
	var info jetstream.StreamInfo
	err := f.ask("INFO", "", &info)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("there is no stream %s: "+
			"nats stream add %s --subjects '%s>' --allow-batch --defaults", name, name, prefix)
	}
	if err != nil {
		return f.away(err)
	}
	f.end, f.maxSize = info.State.LastSeq, info.Config.MaxMsgSize
	return unfit(&info.Config, name, prefix)
}

// unfit returns an error if a stream of this configuration can't have the log's messages below
// prefix. The error shows the command that corrects it. Without AllowAtomicPublish, or with a
// server older than 2.12, the stream would store each message of a batch by itself.
func unfit(stream *jetstream.StreamConfig, name, prefix string) error {
	isCovered := slices.ContainsFunc(stream.Subjects, func(pattern string) bool {
		return covers(pattern, prefix)
	})
	edit := "nats stream edit " + name
	for _, defect := range []struct {
		isThere     bool
		why, remedy string
	}{
		{stream.Sealed, "takes no messages (sealed)", "use another stream"},
		{stream.AllowMsgCounter, "takes only counts (allow_msg_counter)", "use another stream"},
		{stream.SubjectTransform != nil, "changes subjects (subject_transform)",
			edit + " --no-transform"},
		{!stream.AllowAtomicPublish,
			"takes no atomic batches, which need nats-server 2.12 or later",
			edit + " --allow-batch"},
		{stream.NoAck, "acknowledges nothing", edit + " --ack"},
		{!isCovered, "does not take all subjects below -prefix " + prefix,
			fmt.Sprintf("correct the prefix, or %s --subjects '%s,%s>'",
				edit, strings.Join(stream.Subjects, ","), prefix)},
	} {
		if defect.isThere {
			return fmt.Errorf("stream %s %s: %s", name, defect.why, defect.remedy)
		}
	}
	return nil
}

// stored returns the subject and the data of the stream's message at sequence. Both are empty if
// the stream has removed it, and for the sequence 0. The leader answers; other replicas, which
// direct access would ask, may lack the last messages.
func (f *forwarder) stored(sequence uint64) (*nats.Msg, error) {
	var answer struct{ Message nats.Msg }
	err := f.ask("MSG.GET", fmt.Sprintf(`{"seq":%d}`, sequence), &answer)
	if err != nil && sequence > 0 && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, f.away(err)
	}
	return &answer.Message, nil
}
