package producer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/broker"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

// isRefusal returns whether err is the broker's own refusal.
func isRefusal(err error) bool {
	var refusal producer.Refusal
	return errors.As(err, &refusal)
}

// foreign is in the errors about an answer that no broker sends.
const foreign = "the answer is not a reply of mbus, is -port right?"

var message = []*apiv1.Message{{Topic: "t", Data: []byte("text")}}

// withTimeout returns a producer for address. Its time-out is a second if want has the text of
// a time-out, and otherwise longer than the test.
func withTimeout(t *testing.T, address, want string) *producer.Producer {
	t.Helper()
	timeout := bustest.Patience
	if strings.Contains(want, "timed out after 1s") {
		timeout = time.Second
	}
	return newProducer(t, address, func(config *producer.ProducerConfig) {
		config.Timeout = timeout
	})
}

func TestSendToABroker(t *testing.T) {
	log := &bustest.Record{}
	config := broker.DefaultConfig()
	config.ProducerPort, config.MaxPayload, config.Log = "0", 1<<20, log
	b, err := broker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- b.ProducerListen() }()
	address := b.Addr().String()
	p := withTimeout(t, address, "")

	for _, messages := range [][]*apiv1.Message{message, {}, {message[0], {Topic: "u"}}} {
		if err := p.Send(t.Context(), messages); err != nil {
			t.Errorf("%d messages: %v", len(messages), err)
		}
	}
	const tooLarge = "the payload is too large: " +
		"more than 1048576 bytes (the broker's -max-payload)"
	for want, wrong := range map[string]*apiv1.Message{
		`message 1: entry "Topic" is 0 bytes long, must be 1 to 255`: {},
		tooLarge: {Topic: "t", Data: make([]byte, 16<<20)},
	} {
		err := p.Send(t.Context(), []*apiv1.Message{wrong})
		if !isRefusal(err) || errors.Is(err, producer.ErrUnknown) ||
			err.Error() != address+": refused: "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	b.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := bustest.Messages(t, log.String()); len(got) != 3 {
		t.Errorf("%d messages in the log, want 3:\n%s", len(got), log)
	}
}

// exchange is what a server does, and how Send must end.
type exchange struct {
	serve   func(context.Context, *net.TCPConn)
	unknown bool
	refused bool
	want    string // in the error; empty: there is none
}

func exchanges() map[string]exchange {
	const accepted, fault = "\x82\xa8Accepted", "\xa5Error"
	const noMap = foreign + " the reply is an integer, must be a map of Accepted and Error"
	long := strings.Repeat("x", 200)
	return map[string]exchange{
		"accepts": {answer(accepted + "\x01" + fault + "\xa0"), false, false, ""},
		"refuses": {answer(accepted + "\x00" + fault + "\xa3why"), false, true, "refused: why"},
		"refuses at length": {answer(accepted + "\x00" + fault + "\xd9\xc8" + long),
			false, true, "refused: " + long},
		"hangs up": {answer(""), true, false, "the connection ended without a reply"},
		"half a reply": {answer(accepted + "\x01"),
			true, false, foreign + " the reply: ends early, in key 2"},
		"HTTP":    {answer("HTTP/1.1 400 Bad Request\r\n\r\n"), true, false, noMap},
		"endless": {answerEndlessly, true, false, foreign},
		"another count": {answer(accepted + "\x02" + fault + "\xa0"),
			true, false, `the broker answers 2 accepted of 1, ""`},
		"contradicts": {answer(accepted + "\x01" + fault + "\xa3why"),
			true, false, `the broker answers 1 accepted of 1, "why"`},
		"accepts nothing": {answer(accepted + "\x00" + fault + "\xa0"),
			true, false, `the broker answers 0 accepted of 1, ""`},
		"resets":        {resetLate, true, false, "connection reset by peer"},
		"never answers": {answerOpenly(""), true, false, "timed out after 1s"},
		"answers, stays on": {answerOpenly("SSH-2.0"),
			true, false, noMap + "; timed out after 1s"},
	}
}

// The error says whether the messages were accepted, whatever the server answers.
func TestSendToOthers(t *testing.T) {
	for name, test := range exchanges() {
		t.Run(name, func(t *testing.T) {
			address := serveOne(t, test.serve)
			err := withTimeout(t, address, test.want).Send(t.Context(), message)
			if errors.Is(err, producer.ErrUnknown) != test.unknown ||
				isRefusal(err) != test.refused {
				t.Errorf("unknown, refused: want %v, %v, got %v", test.unknown, test.refused, err)
			}
			if test.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.want) ||
				!strings.HasPrefix(err.Error(), address+": ") {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// A payload that can't be sent whole was not accepted, even if the answer says it was.
func TestSendBreaksOff(t *testing.T) {
	const broke = "sending broke off: "
	for name, test := range map[string]struct {
		serve func(context.Context, *net.TCPConn)
		want  string
	}{
		"reset":          {resetEarly, broke},
		"accepted early": {answerEarly("\x82\xa8Accepted\x01\xa5Error\xa0"), broke},
		"refused early":  {answerEarly("\x82\xa8Accepted\x00\xa5Error\xa3why"), "refused: why"},
		"another server": {answerEarly("HTTP/1.1 413 Too Large\r\n\r\n"), "; " + foreign},
		"never read":     {answerOpenly(""), broke + "timed out after 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			large := []*apiv1.Message{{Topic: "t", Data: make([]byte, 16<<20)}}
			p := withTimeout(t, serveOne(t, test.serve), test.want)
			err := p.Send(t.Context(), large)
			if err == nil || errors.Is(err, producer.ErrUnknown) ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// After a payload that was not sent, the error says that nothing was accepted.
func TestSendToNobody(t *testing.T) {
	for address, want := range map[string]string{
		bustest.FreeAddress(t):      ": not accepted: connect: connection refused",
		"no-such-host.invalid:9990": ": not accepted: lookup no-such-host.invalid",
	} {
		err := withTimeout(t, address, "").Send(t.Context(), message)
		if err == nil || errors.Is(err, producer.ErrUnknown) ||
			!strings.HasPrefix(err.Error(), address+want) {
			t.Errorf("got %v, want %s", err, address+want)
		}
	}
}

// checkConfig fails the test unless a configuration that set has changed is refused with want, or
// accepted if want is empty.
func checkConfig(t *testing.T, want string, set func(*producer.ProducerConfig)) {
	t.Helper()
	config := producer.DefaultConfig()
	set(config)
	got := ""
	if _, err := producer.New(config); err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestValidateHost(t *testing.T) {
	const alone = "must be a name or an address alone, " +
		"such as localhost or ::1, or the path of a socket; the port has a flag of its own"
	for host, want := range map[string]string{
		"":                 "must be a host",
		"localhost":        "",
		"127.0.0.1":        "",
		"::1":              "",
		"fe80::1%eth0":     "",
		"localhost:9990":   alone,
		"127.0.0.1:9990":   alone,
		"[::1]":            "",
		"localhost/":       "",
		"[::1]:9990":       alone,
		"http://localhost": "must be a host alone, or the path of a socket, and not a URL",
	} {
		if want != "" {
			want = fmt.Sprintf("-host %q: %s", host, want)
		}
		checkConfig(t, want, func(config *producer.ProducerConfig) { config.Host = host })
	}
}

func TestValidate(t *testing.T) {
	type config = producer.ProducerConfig
	checkConfig(t, "", func(*config) {})
	for _, port := range []string{"0", "65536", "x"} {
		want := fmt.Sprintf("-port %q: must be a number from 1 to 65535", port)
		checkConfig(t, want, func(config *config) { config.Port = port })
	}
	checkConfig(t, "-retry -1ns: must be a duration of at least 0, such as 30s",
		func(config *config) { config.Retry = -1 })
	checkConfig(t, "-timeout 0s: must be a duration above 0, such as 30s",
		func(config *config) { config.Timeout = 0 })
	checkConfig(t, "-at-least-once without -retry: must be with the time to retry",
		func(config *config) { config.AtLeastOnce = true })
}
