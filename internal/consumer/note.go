package consumer

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

const (
	// maxStarted is the largest number of messages from the first unfinished one on that are
	// started. A note has a bit for each.
	maxStarted = 256

	// doneFormat and outputFormat are the forms of the two parts of a note.
	doneFormat   = "done %08x %s"
	outputFormat = "output %x %d %08x"
)

// note is what a consumer's state keeps besides the position. Its text has the two parts that are
// not empty, with a space between them:
//
//	done CHECKSUM BITS
//	output INODE LENGTH CHECKSUM
//
// The first CHECKSUM is a doneSum, of eight hexadecimal digits. BITS is base64url without padding:
// the first message after the position has the highest bit of the first byte. The second part is a
// mark.
type note struct {
	sum    uint32 // doneSum of the messages that are delivered
	done   []bool // which of the next messages are delivered: up to maxStarted
	output mark   // zero: none
}

// doneSum returns the CRC-32 (IEEE) of topics, sorted, each once and with a line feed, and of the
// checksums of those messages that are delivered, each as four bytes, big-endian.
func doneSum(topics []string, messages []*started) uint32 {
	var text []byte
	for _, topic := range slices.Compact(slices.Sorted(slices.Values(topics))) {
		text = append(append(text, topic...), '\n')
	}
	for _, each := range messages {
		if each.delivered {
			text = binary.BigEndian.AppendUint32(text, each.checksum)
		}
	}
	return crc32.ChecksumIEEE(text)
}

// String returns the note's text. It has at most 128 bytes.
func (n note) String() string {
	var parts []string
	if last := lastTrue(n.done); last >= 0 {
		packed := make([]byte, last/8+1)
		for i, done := range n.done {
			if done {
				packed[i/8] |= 0x80 >> (i % 8)
			}
		}
		bits := base64.RawURLEncoding.EncodeToString(packed)
		parts = append(parts, fmt.Sprintf(doneFormat, n.sum, bits))
	}
	if m := n.output; m != (mark{}) {
		parts = append(parts, fmt.Sprintf(outputFormat, m.inode, m.length, m.checksum))
	}
	return strings.Join(parts, " ")
}

// lastTrue returns the index of the last true element, or -1.
func lastTrue(bits []bool) int {
	for i, bit := range slices.Backward(bits) {
		if bit {
			return i
		}
	}
	return -1
}

// parseNote returns the note that has this text. A text that no note has is an empty note, after
// which messages are delivered again, but none is passed over.
func parseNote(text string) (parsed note) {
	done, rest, _ := strings.Cut(" "+text, " output ") // the bits may end with "output"
	done = strings.TrimPrefix(done, " ")
	var bits string
	fmt.Sscanf(done, doneFormat, &parsed.sum, &bits)
	packed, _ := base64.RawURLEncoding.DecodeString(bits)
	for i := range 8 * len(packed) {
		parsed.done = append(parsed.done, packed[i/8]&(0x80>>(i%8)) != 0)
	}
	parsed.done = parsed.done[:lastTrue(parsed.done)+1]
	m := &parsed.output
	fmt.Sscanf("output "+rest, outputFormat, &m.inode, &m.length, &m.checksum)
	if len(parsed.done) > maxStarted || m.length < 0 || parsed.String() != text {
		return note{}
	}
	return parsed
}
