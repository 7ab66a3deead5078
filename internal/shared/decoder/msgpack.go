package decoder

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"mbus/internal/apiv1"
)

const (
	// smallestMessage is the least a message takes: its map header, the key
	// "Topic", a topic of one byte, the key "Data", and nil.
	smallestMessage = 1 + 6 + 2 + 5 + 1

	// maxChunk is how many messages are allocated together at the most: few
	// enough to be freed soon, and for the garbage collector to keep pace.
	maxChunk = 1024

	// quotedKey is how many bytes of an unknown key a reason quotes: a byte
	// grows to at most four characters in quotes, so 200 are never reached.
	quotedKey = 32
)

// MsgpackDecoder is the Decoder of the protocol's msgpack. It reads headers with
// the msgpack library's primitives, which never allocate for a length that they
// read, and takes every string and binary straight from the payload, after
// checking its length against the bytes that remain. It never skips a value, so
// nested input can't make it recurse. It is not safe for concurrent use.
type MsgpackDecoder struct {
	most    int           // messages that a payload may have
	input   []byte        // what is being decoded
	reader  *bytes.Reader // over input; the library adds no buffer of its own to it
	msgpack *msgpack.Decoder

	// The last message's bytes up to its data, if the topic comes first, and
	// its topic. The same bytes mean the same again, as they do in most payloads,
	// and need not be decoded, checked and copied again.
	head  []byte
	topic string
}

// NewMsgpackDecoder returns a decoder that refuses a payload of more messages than
// most before it allocates anything for them.
func NewMsgpackDecoder(most int) *MsgpackDecoder {
	reader := bytes.NewReader(nil)
	return &MsgpackDecoder{most: most, reader: reader, msgpack: msgpack.NewDecoder(reader)}
}

// Decode implements Decoder. It allocates at most six times len(payload), and
// what an error takes.
func (decoder *MsgpackDecoder) Decode(payload []byte) ([]*apiv1.Message, error) {
	if len(payload) == 0 {
		return nil, nil
	}
	decoder.start(payload)
	defer decoder.start(nil) // keep no payload alive

	count := 1
	if decoder.peek() == anArray {
		var err error
		if count, err = decoder.msgpack.DecodeArrayLen(); err != nil {
			return nil, errors.New("the payload ends early, in its array header")
		}
		if uint(count) > uint(decoder.most) {
			return nil, fmt.Errorf(apiv1.TooLarge+"%d messages, at most %d can be queued", uint32(count), decoder.most)
		}
	}
	// A count may be false; how many messages the rest can hold is not.
	room := min(count, decoder.reader.Len()/smallestMessage)
	messages := make([]*apiv1.Message, 0, room)
	var chunk []apiv1.Message
	for position := 1; position <= count; position++ {
		if len(chunk) == 0 {
			chunk = make([]apiv1.Message, max(1, min(room-len(messages), maxChunk)))
		}
		if err := decoder.message(&chunk[0]); err != nil {
			return nil, fmt.Errorf("message %d: %w", position, err)
		}
		messages = append(messages, &chunk[0])
		chunk = chunk[1:]
	}
	if extra := decoder.reader.Len(); extra > 0 {
		return nil, fmt.Errorf("the payload has %d bytes after its end", extra)
	}
	return messages, nil
}

// CheckFirst implements Decoder.
func (*MsgpackDecoder) CheckFirst(first byte) error {
	if kind := kindOf(first); kind != aMap && kind != anArray {
		return fmt.Errorf("message 1: %w", notAMap(kind, "Topic and Data"))
	}
	return nil
}

// message decodes one message into message, which must be zero.
func (decoder *MsgpackDecoder) message(message *apiv1.Message) error {
	start := decoder.offset()
	if len(decoder.head) > 0 && bytes.HasPrefix(decoder.input[start:], decoder.head) {
		decoder.reader.Reset(decoder.input[start+len(decoder.head):])
		message.Topic = decoder.topic
		return decoder.data(message)
	}
	var hasTopic, hasData bool
	if err := decoder.mapOf2("Topic and Data"); err != nil {
		return err
	}
	for number := 1; number <= 2; number++ {
		key, err := decoder.key(number)
		if err != nil {
			return err
		}
		switch string(key) {
		case "Topic":
			if hasTopic {
				return errors.New(`entry "Topic" is there twice`)
			}
			hasTopic = true
			if kind := decoder.peek(); kind != aString && kind != endOfInput {
				return fmt.Errorf(`entry "Topic" is %s, must be a string`, kind)
			}
			topic, err := decoder.bytes(`entry "Topic"`)
			if err != nil {
				return err
			}
			if err := apiv1.CheckTopic(topic); err != nil {
				return fmt.Errorf(`entry "Topic" %w`, err)
			}
			message.Topic = string(topic)
		case "Data":
			if hasData {
				return errors.New(`entry "Data" is there twice`)
			}
			hasData = true
			if hasTopic {
				decoder.head = append(decoder.head[:0], decoder.input[start:decoder.offset()]...)
				decoder.topic = message.Topic
			}
			if err := decoder.data(message); err != nil {
				return err
			}
		default:
			return fmt.Errorf(`unknown entry %s, must be "Topic" or "Data"`, quote(key))
		}
	}
	return nil
}

// data decodes the value of a message's entry "Data".
func (decoder *MsgpackDecoder) data(message *apiv1.Message) error {
	switch kind := decoder.peek(); kind {
	case aString, binary, null, endOfInput:
	default:
		return fmt.Errorf(`entry "Data" is %s, must be binary, a string or nil`, kind)
	}
	var err error
	message.Data, err = decoder.bytes(`entry "Data"`)
	return err
}

// DecodeReply implements Decoder.
func (decoder *MsgpackDecoder) DecodeReply(data []byte) (*apiv1.Reply, error) {
	decoder.start(data)
	defer decoder.start(nil)

	var reply apiv1.Reply
	var hasAccepted, hasError bool
	if err := decoder.mapOf2("Accepted and Error"); err != nil {
		return nil, fmt.Errorf("the reply %w", err)
	}
	for number := 1; number <= 2; number++ {
		key, err := decoder.key(number)
		if err != nil {
			return nil, fmt.Errorf("the reply: %w", err)
		}
		kind := decoder.peek()
		switch {
		case string(key) == "Accepted" && !hasAccepted && kind == anInteger:
			hasAccepted = true
			if reply.Accepted, err = decoder.msgpack.DecodeInt(); err != nil {
				return nil, errors.New(`the reply ends early, in entry "Accepted"`)
			}
		case string(key) == "Error" && !hasError && kind == aString:
			hasError = true
			text, err := decoder.bytes(`entry "Error"`)
			if err != nil {
				return nil, fmt.Errorf("the reply %w", err)
			}
			reply.Error = string(text)
		default:
			return nil, fmt.Errorf("the reply's entry %s is %s or there twice", quote(key), kind)
		}
	}
	if extra := decoder.reader.Len(); extra > 0 {
		return nil, fmt.Errorf("the reply has %d bytes after its end", extra)
	}
	return &reply, nil
}

// offset returns how many bytes of the input have been decoded.
func (decoder *MsgpackDecoder) offset() int {
	return len(decoder.input) - decoder.reader.Len()
}

// start makes input the bytes to decode.
func (decoder *MsgpackDecoder) start(input []byte) {
	decoder.input = input
	decoder.reader.Reset(input)
}

// mapOf2 reads the header of a map that must have two entries, named by names.
func (decoder *MsgpackDecoder) mapOf2(names string) error {
	if kind := decoder.peek(); kind != aMap && kind != endOfInput {
		return notAMap(kind, names)
	}
	entries, err := decoder.msgpack.DecodeMapLen()
	if err != nil {
		return errors.New("ends early, in its map header")
	}
	if entries != 2 {
		return fmt.Errorf("has %d entries, must have 2: %s", uint32(entries), names)
	}
	return nil
}

// notAMap returns the error for a value of a kind that is not a map.
func notAMap(kind kind, names string) error {
	return fmt.Errorf("is %s, must be a map of %s", kind, names)
}

// key reads a map's key, the number-th.
func (decoder *MsgpackDecoder) key(number int) ([]byte, error) {
	if kind := decoder.peek(); kind != aString && kind != endOfInput {
		return nil, fmt.Errorf("key %d is %s, must be a string", number, kind)
	}
	return decoder.bytes([...]string{"key 1", "key 2"}[number-1])
}

// bytes reads a string, a binary or nil and returns its bytes, a part of the
// input. Its error names it by name.
func (decoder *MsgpackDecoder) bytes(name string) ([]byte, error) {
	length, err := decoder.msgpack.DecodeBytesLen()
	if err != nil {
		return nil, fmt.Errorf("ends early, in %s", name)
	}
	rest := decoder.reader.Len()
	start := decoder.offset()
	if length == -1 && decoder.input[start-1] == msgpcode.Nil {
		return nil, nil
	}
	if length < 0 || length > rest {
		return nil, fmt.Errorf("ends early, in %s: %d bytes declared, %d are there", name, uint32(length), rest)
	}
	decoder.reader.Reset(decoder.input[start+length:])
	return decoder.input[start : start+length : start+length], nil
}

// quote returns key in quotes, as a Go string literal, cut after quotedKey bytes.
func quote(key []byte) string {
	if len(key) > quotedKey {
		return strconv.Quote(string(key[:quotedKey])) + "..."
	}
	return strconv.Quote(string(key))
}

// kind is a kind of msgpack value, as a reason words it.
type kind string

// The kinds of values, by msgpack's families of formats.
const (
	endOfInput kind = "nothing"
	null       kind = "nil"
	unused     kind = "the unused byte 0xc1"
	aBoolean   kind = "a boolean"
	anInteger  kind = "an integer"
	aFloat     kind = "a float"
	aString    kind = "a string"
	binary     kind = "binary"
	anArray    kind = "an array"
	aMap       kind = "a map"
	extension  kind = "an extension"
)

// peek returns the kind of the next value without reading it. The library's
// DecodeMapLen and DecodeBytesLen take more than one kind, so this comes first.
func (decoder *MsgpackDecoder) peek() kind {
	rest := decoder.input[decoder.offset():]
	if len(rest) == 0 {
		return endOfInput
	}
	return kindOf(rest[0])
}

// kindOf returns the kind of a value that begins with code.
func kindOf(code byte) kind {
	switch {
	case msgpcode.IsBin(code):
		return binary
	case msgpcode.IsFixedNum(code), code >= msgpcode.Uint8 && code <= msgpcode.Int64:
		return anInteger
	case msgpcode.IsFixedMap(code), code == msgpcode.Map16, code == msgpcode.Map32:
		return aMap
	case msgpcode.IsFixedArray(code), code == msgpcode.Array16, code == msgpcode.Array32:
		return anArray
	case msgpcode.IsString(code):
		return aString
	case msgpcode.IsExt(code):
		return extension
	case code == msgpcode.Nil:
		return null
	case code == msgpcode.False, code == msgpcode.True:
		return aBoolean
	case code == msgpcode.Float, code == msgpcode.Double:
		return aFloat
	}
	return unused
}
