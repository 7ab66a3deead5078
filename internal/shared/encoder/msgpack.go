package encoder

import (
	"github.com/vmihailenco/msgpack/v5"

	"mbus/internal/apiv1"
)

// MsgpackEncoder is the Encoder of the protocol's msgpack. It is safe for
// concurrent use.
type MsgpackEncoder struct{}

// NewMsgpackEncoder returns an encoder.
func NewMsgpackEncoder() *MsgpackEncoder {
	return &MsgpackEncoder{}
}

// Encode implements Encoder.
func (*MsgpackEncoder) Encode(messages []*apiv1.Message) ([]byte, error) {
	switch len(messages) {
	case 0:
		messages = []*apiv1.Message{} // a nil slice would be encoded as nil
	case 1:
		return msgpack.Marshal(messages[0])
	}
	return msgpack.Marshal(messages)
}

// EncodeReply implements Encoder.
func (*MsgpackEncoder) EncodeReply(reply *apiv1.Reply) ([]byte, error) {
	return msgpack.Marshal(reply)
}
