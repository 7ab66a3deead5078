package consumer

import (
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// maxStarted is the largest number of messages from the first unfinished one on that are started.
// A note has a bit for each.
const maxStarted = 256

// note is what a consumer's state keeps besides the position. Its text has the two parts that are
// not empty, with a space between them:
//
//	done TOPICS BITS
//	output INODE LENGTH SUM
//
// TOPICS and SUM have eight hexadecimal digits, INODE and LENGTH are decimal. BITS is base64url
// without padding: the first message after the position has the highest bit of the first byte.
type note struct {
	topics uint32 // topicsSum of the topics that done counts
	done   []bool // which of the next messages are delivered: up to maxStarted
	output mark   // zero: none
}

// mark identifies the regular file that is the output, and its content at the position.
type mark struct {
	inode  uint64
	length int64  // in bytes
	sum    uint32 // CRC-32 (IEEE) of the last KiB before length, or of all
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
func (note note) String() string {
	var parts []string
	if last := lastTrue(note.done); last >= 0 {
		packed := make([]byte, last/8+1)
		for i, done := range note.done {
			if done {
				packed[i/8] |= 0x80 >> (i % 8)
			}
		}
		bits := base64.RawURLEncoding.EncodeToString(packed)
		parts = append(parts, fmt.Sprintf("done %08x %s", note.topics, bits))
	}
	if note.output != (mark{}) {
		parts = append(parts, fmt.Sprintf("output %d %d %08x",
			note.output.inode, note.output.length, note.output.sum))
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
	var packed []byte
	fields := strings.Fields(text)
	for len(fields) > 0 {
		var err error
		switch {
		case fields[0] == "done" && len(fields) >= 3:
			_, err = fmt.Sscanf(fields[1], "%08x", &parsed.topics)
			if err == nil {
				packed, err = base64.RawURLEncoding.DecodeString(fields[2])
			}
			fields = fields[3:]
		case fields[0] == "output" && len(fields) >= 4:
			output := &parsed.output
			_, err = fmt.Sscanf(strings.Join(fields[1:4], " "), "%d %d %08x",
				&output.inode, &output.length, &output.sum)
			fields = fields[4:]
		default:
			return note{}
		}
		if err != nil {
			return note{}
		}
	}
	for i := range 8 * len(packed) {
		parsed.done = append(parsed.done, packed[i/8]&(0x80>>(i%8)) != 0)
	}
	parsed.done = parsed.done[:lastTrue(parsed.done)+1]
	if len(parsed.done) > maxStarted || parsed.String() != text {
		return note{}
	}
	return parsed
}
