package consumer

import (
	"encoding/base64"
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
//	done TOPICS BITS
//	output INODE LENGTH CHECKSUM
//
// TOPICS has eight hexadecimal digits. BITS is base64url without padding: the first message after
// the position has the highest bit of the first byte. The second part is a mark.
type note struct {
	topics uint32 // topicsSum of the topics that done counts
	done   []bool // which of the next messages are delivered: up to maxStarted
	output mark   // zero: none
}

// topicsSum returns the CRC-32 (IEEE) of topics, sorted, each once and with a line feed.
func topicsSum(topics []string) uint32 {
	sorted := slices.Compact(slices.Sorted(slices.Values(topics)))
	text := ""
	for _, topic := range sorted {
		text += topic + "\n"
	}
	return crc32.ChecksumIEEE([]byte(text))
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
		parts = append(parts, fmt.Sprintf(doneFormat, n.topics, bits))
	}
	if m := n.output; m != (mark{}) {
		parts = append(parts, fmt.Sprintf(outputFormat, m.inode, m.length, m.checksum))
	}
	return strings.Join(parts, " ")
}

// doneOf returns which of the next messages of topics are delivered.
func (n note) doneOf(topics []string) []bool {
	if n.topics != topicsSum(topics) {
		return nil
	}
	return n.done
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
	fmt.Sscanf(done, doneFormat, &parsed.topics, &bits)
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
