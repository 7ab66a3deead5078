package encoder_test

import (
	"strings"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/encoder"
)

// The wanted bytes are written by hand from the msgpack specification.
func TestEncode(t *testing.T) {
	a := &apiv1.Message{Topic: "a", Data: []byte("1")}
	const encodedA = "\x82\xa5Topic\xa1a\xa4Data\xc4\x011"
	longTopic, longData := strings.Repeat("x", 255), strings.Repeat("\xff", 70_000)
	for _, test := range []struct {
		messages []*apiv1.Message
		want     string
	}{
		{nil, "\x90"},
		{[]*apiv1.Message{}, "\x90"},
		{[]*apiv1.Message{a}, encodedA},
		{[]*apiv1.Message{a, a}, "\x92" + encodedA + encodedA},
		{[]*apiv1.Message{{Topic: "a"}}, "\x82\xa5Topic\xa1a\xa4Data\xc0"},
		{[]*apiv1.Message{{Topic: "a", Data: []byte{}}}, "\x82\xa5Topic\xa1a\xa4Data\xc4\x00"},
		{[]*apiv1.Message{{Topic: longTopic, Data: []byte(longData)}},
			"\x82\xa5Topic\xd9\xff" + longTopic + "\xa4Data\xc6\x00\x01\x11\x70" + longData},
	} {
		got, err := encoder.NewMsgpackEncoder().Encode(test.messages)
		if err != nil || string(got) != test.want {
			t.Errorf("%d messages: %.80q, error %v, want %.80q",
				len(test.messages), got, err, test.want)
		}
	}
}

func TestEncodeReply(t *testing.T) {
	for want, reply := range map[string]apiv1.Reply{
		"\x82\xa8Accepted\x00\xa5Error\xa0":               {},
		"\x82\xa8Accepted\x01\xa5Error\xa0":               {Accepted: 1},
		"\x82\xa8Accepted\xcd\x03\xe8\xa5Error\xa0":       {Accepted: 1000},
		"\x82\xa8Accepted\x00\xa5Error\xaemessage 1: bad": {Error: "message 1: bad"},
	} {
		got, err := encoder.NewMsgpackEncoder().EncodeReply(&reply)
		if err != nil || string(got) != want {
			t.Errorf("%+v: %q, error %v, want %q", reply, got, err, want)
		}
	}
}
