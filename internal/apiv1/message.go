// Package apiv1 is version 1 of the mbus protocol. This comment is the specification.
// The package has the types of the two values that the protocol transfers, and the reasons of
// refusals.
//
// # Connection
//
// One connection, over TCP or a Unix socket, carries one payload. One payload is one transaction.
//
//  1. The producer connects, writes one payload and half-closes.
//  2. The broker reads to the end and checks everything. Then it queues all of
//     the payload's messages, in order, or none.
//  3. The broker writes one reply and closes. A producer may close without
//     reading it.
//
// The broker's -timeout is the time limit of a connection, from its acceptance
// until its payload is queued. At -interval 0 draining the payload counts too.
// The reply has one second more.
//
// # Payload
//
// A payload is one message, or one array of messages, in msgpack
// (https://github.com/msgpack/msgpack/blob/master/spec.md). A message is a map of
// exactly two entries, in any order:
//
//	key (str)  value
//	"Topic"    str: 1 to 255 bytes of printable UTF-8
//	"Data"     bin or str: any bytes; nil: no bytes
//
// The message with the data "hi" on the topic "orders":
//
//	82 a5 54 6f 70 69 63 a6 6f 72 64 65 72 73 a4 44 61 74 61 c4 02 68 69
//
// An array of two messages, "1" and "2" on the topic "a":
//
//	92 82 a5 54 6f 70 69 63 a1 61 a4 44 61 74 61 c4 01 31
//	   82 a5 54 6f 70 69 63 a1 61 a4 44 61 74 61 c4 01 32
//
// Nothing may follow the payload. An empty payload and an empty array (90) are
// accepted as zero messages. Printable characters are those of Go's
// unicode.IsPrint: letters, marks, numbers, punctuation, symbols and the ASCII
// space.
//
// # Reply
//
// The reply is a map of two entries, "Accepted" (int) and "Error" (str). Two
// messages were accepted:
//
//	82 a8 41 63 63 65 70 74 65 64 02 a5 45 72 72 6f 72 a0
//
// Nothing was accepted, because the queue is full:
//
//	82 a8 41 63 63 65 70 74 65 64 00 a5 45 72 72 6f 72 ad 71 75 65 75 65 20 69 73 20 66 75 6c 6c
//
// If a connection ends without a whole reply, the payload may have been queued
// or not.
//
// # Refusals
//
// The Error of a refusal is one printable line of at most 200 characters. N is
// the position of the message in the payload, from 1. X is a kind of msgpack
// value, such as "an integer". K is a quoted key, cut after 32 bytes.
//
//	message N: is X, must be a map of Topic and Data
//	message N: has 3 entries, must have 2: Topic and Data
//	message N: key 1 is X, must be a string
//	message N: unknown entry K, must be "Topic" or "Data"
//	message N: entry "Topic" is there twice
//	message N: entry "Topic" is X, must be a string
//	message N: entry "Topic" is 300 bytes long, must be 1 to 255
//	message N: entry "Topic" is not printable UTF-8 at byte 7
//	message N: entry "Data" is X, must be binary, a string or nil
//	message N: ends early, in its map header
//	message N: ends early, in key 1
//	message N: ends early, in entry "Data": 900 bytes declared, 12 are there
//	the payload ends early, in its array header
//	the payload has 3 bytes after its end
//
// After these refusals, fewer or shorter messages may be accepted:
//
//	the payload is too large: more than 16777216 bytes (-max-payload)
//	the payload is too large: 3000000 messages, at most 2097152 can be queued
//	the payload is too large: more than an empty queue takes (-max-queued 268435456)
//
// After these, the same payload may be accepted later. A payload of several
// messages that did not end in time may also be sent in parts.
//
//	the payload did not end within 5s: half-close after the last byte
//	the connection broke: read: connection reset by peer
//	queue is full
//	the broker is stopping
//	the log is gone
package apiv1

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxTopic is the length limit of a topic's name, in bytes.
const MaxTopic = 255

// The reasons of refusals on which a producer can act. See Retryable and Splittable.
const (
	TooLarge  = "the payload is too large: "      // followed by the limit
	NoEnd     = "the payload did not end within " // followed by the time
	Broke     = "the connection broke: "          // followed by the error
	QueueFull = "queue is full"
	Stopping  = "the broker is stopping"
	LogGone   = "the log is gone"
)

// Message is one message, which a producer sends and the broker queues. A queued Message
// must not change.
type Message struct {
	Topic string // 1 to MaxTopic bytes of printable UTF-8
	Data  []byte // any bytes; nil and empty are the same
}

// Reply is the broker's answer to one payload.
type Reply struct {
	Accepted int    // how many messages were queued: all of the payload's, or 0
	Error    string // why the payload was refused; empty when it was accepted
}

// Retryable reports whether a payload that was refused for reason may be accepted later.
// reason is the Error of a Reply.
func Retryable(reason string) bool {
	return reason == QueueFull || reason == Stopping || reason == LogGone ||
		strings.HasPrefix(reason, NoEnd) || strings.HasPrefix(reason, Broke)
}

// Splittable reports whether a payload of several messages that was refused for reason may be
// accepted in parts, each as a payload of its own. reason is the Error of a Reply.
func Splittable(reason string) bool {
	return strings.HasPrefix(reason, TooLarge) || strings.HasPrefix(reason, NoEnd)
}

// CheckTopic returns nil if name is a valid topic name. Otherwise its error is the end of a
// sentence, for the caller to begin: "is 0 bytes long, must be 1 to 255".
func CheckTopic(name []byte) error {
	if len(name) == 0 || len(name) > MaxTopic {
		return fmt.Errorf("is %d bytes long, must be 1 to %d", len(name), MaxTopic)
	}
	for at := 0; at < len(name); {
		character, size := utf8.DecodeRune(name[at:])
		if character == utf8.RuneError && size == 1 || !strconv.IsPrint(character) {
			return fmt.Errorf("is not printable UTF-8 at byte %d", at+1)
		}
		at += size
	}
	return nil
}
