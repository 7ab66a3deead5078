// Package decoder turns the bytes of the protocol into its values. It decodes whole payloads
// and whole replies. Its callers read these from the network.
package decoder

import "mbus/internal/apiv1"

// Decoder decodes the payloads that apiv1 specifies. An implementation need not be safe for
// concurrent use.
type Decoder interface {
	// Decode returns all messages of one whole payload, or no message and an error. The
	// error is a reason of apiv1: it names the position of the wrong message and what is
	// wrong with it. The messages share payload's memory, so the caller must not change
	// payload afterwards.
	Decode(payload []byte) ([]*apiv1.Message, error)

	// CheckFirst returns nil if a payload may begin with the byte first. Otherwise it
	// returns the error of Decode for each payload that begins with this byte.
	CheckFirst(first byte) error
}
