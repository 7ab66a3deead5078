// Package encoder turns the values of the protocol into its bytes.
package encoder

import "mbus/internal/apiv1"

// Encoder encodes what apiv1 specifies. An implementation need not be safe for
// concurrent use.
type Encoder interface {
	// Encode returns the payload of messages: one message by itself, or an array of any
	// other number of messages.
	Encode(messages []*apiv1.Message) ([]byte, error)

	// EncodeReply returns the bytes of reply.
	EncodeReply(reply *apiv1.Reply) ([]byte, error)
}
