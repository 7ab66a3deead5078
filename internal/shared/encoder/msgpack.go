package encoder

import (
	"bytes"
	"cmp"

	"github.com/vmihailenco/msgpack/v5"

	"mbus/internal/apiv1"
)

// PayloadFraming is the largest size of a payload without its messages, in bytes.
const PayloadFraming = 5

// MessageSize returns the largest size of message in a payload, in bytes.
func MessageSize(message *apiv1.Message) int {
	const framing = 1 + 6 + 2 + 5 + 5 // the map, and the keys and headers of the entries
	return framing + len(message.Topic) + len(message.Data)
}

// MsgpackEncoder is the Encoder of the protocol's msgpack. It writes to memory, so its methods
// never fail. It is safe for concurrent use.
type MsgpackEncoder struct{}

// NewMsgpackEncoder returns an encoder.
func NewMsgpackEncoder() *MsgpackEncoder {
	return &MsgpackEncoder{}
}

// Encode implements Encoder. It uses the library's primitives, which are faster than
// its reflection.
func (*MsgpackEncoder) Encode(messages []*apiv1.Message) ([]byte, error) {
	size := PayloadFraming
	for _, message := range messages {
		size += MessageSize(message)
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
