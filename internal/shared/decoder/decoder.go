// Package decoder turns the bytes of the protocol into its values. It knows no
// network: it is given whole payloads and whole replies.
package decoder

import "mbus/internal/apiv1"

// Decoder decodes what apiv1 specifies. An implementation need not be safe for
// concurrent use.
type Decoder interface {
	// Decode returns all messages of one whole payload, or no message and an
	// error that names the position of the wrong message and what is wrong
	// with it, as apiv1 words it. The messages share payload's memory, which
	// the caller must not change any more.
	Decode(payload []byte) ([]*apiv1.Message, error)

	// CheckFirst returns nil if a payload may begin with the byte first, and
	// otherwise the error that Decode returns for each payload that does.
	CheckFirst(first byte) error

	// DecodeReply returns the reply that data, all of it, encodes.
	DecodeReply(data []byte) (*apiv1.Reply, error)
}
