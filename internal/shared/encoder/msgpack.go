package encoder

import (
	"bytes"
	"cmp"

	"github.com/vmihailenco/msgpack/v5"

	"mbus/internal/apiv1"
)

const (
	// PayloadFraming and MessageFraming are what a payload and each of its
	// messages take besides topics and data, in bytes, at the most.
	PayloadFraming = 5
	MessageFraming = 1 + 6 + 2 + 5 + 5
)

// MsgpackEncoder is the Encoder of the protocol's msgpack. It is safe for
// concurrent use.
type MsgpackEncoder struct{}

// NewMsgpackEncoder returns an encoder.
func NewMsgpackEncoder() *MsgpackEncoder {
	return &MsgpackEncoder{}
}

// Encode implements Encoder. It takes the library's primitives rather than have it
// look at a message's type again and again.
func (*MsgpackEncoder) Encode(messages []*apiv1.Message) ([]byte, error) {
	size := PayloadFraming
	for _, message := range messages {
		size += MessageFraming + len(message.Topic) + len(message.Data)
	}
	payload := bytes.NewBuffer(make([]byte, 0, size))
	encoder := msgpack.NewEncoder(payload)
	if len(messages) != 1 {
		if err := encoder.EncodeArrayLen(len(messages)); err != nil {
			return nil, err
		}
	}
	for _, message := range messages {
		err := cmp.Or(
			encoder.EncodeMapLen(2),
			encoder.EncodeString("Topic"),
			encoder.EncodeString(message.Topic),
			encoder.EncodeString("Data"),
			encoder.EncodeBytes(message.Data),
		)
		if err != nil {
			return nil, err
		}
	}
	return payload.Bytes(), nil
}

// EncodeReply implements Encoder.
func (*MsgpackEncoder) EncodeReply(reply *apiv1.Reply) ([]byte, error) {
	return msgpack.Marshal(reply)
}
