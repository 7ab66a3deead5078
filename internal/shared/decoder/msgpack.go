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
	// smallestMessage is the size of the smallest message: its map header, the
	// key "Topic", a topic of one byte, the key "Data", and nil.
	smallestMessage = 1 + 6 + 2 + 5 + 1

	// maxChunk bounds how many messages are allocated together. The garbage collector
	// frees them together too.
	maxChunk = 1024

	// quotedKey is how many bytes of an unknown key a reason quotes. A quoted
	// byte is at most four characters, so a reason has fewer than 200.
	quotedKey = 32
)

// MsgpackDecoder is the Decoder of the protocol's msgpack. It is not safe for concurrent use.
//
// It reads headers with the msgpack library's primitives, which allocate nothing for a
// length that they read. It checks the length of each string and binary against the bytes
// that remain. It never skips a value, so nested input can't make it recurse.
type MsgpackDecoder struct {
	maxMessages int           // that a payload may have
	input       []byte        // the payload or reply to decode
	reader      *bytes.Reader // over input; the library adds no buffer of its own to it
	msgpack     *msgpack.Decoder

	// lastHead is the last message's bytes up to its data, if its topic is before its
	// data. lastTopic is that topic. In most payloads all messages begin with the same
	// bytes, so these are decoded, checked and copied once.
	lastHead  []byte
	lastTopic string
}

// NewMsgpackDecoder returns a decoder that refuses a payload of more than
// maxMessages messages before it allocates anything for them.
func NewMsgpackDecoder(maxMessages int) *MsgpackDecoder {
	reader := bytes.NewReader(nil)
	return &MsgpackDecoder{
		maxMessages: maxMessages,
		reader:      reader,
		msgpack:     msgpack.NewDecoder(reader),
	}
}

// Decode implements Decoder. It allocates at most six times len(payload), besides an error.
func (d *MsgpackDecoder) Decode(payload []byte) ([]*apiv1.Message, error) {
	if len(payload) == 0 {
		return nil, nil
	}
	d.start(payload)
	defer d.start(nil) // keep no payload alive

	count := 1
	if d.peek() == kindArray {
		var err error
		if count, err = d.msgpack.DecodeArrayLen(); err != nil {
			return nil, errors.New("the payload ends early, in its array header")
		}
		if uint(count) > uint(d.maxMessages) {
			return nil, fmt.Errorf(apiv1.TooLarge+"%d messages, at most %d can be queued",
				uint32(count), d.maxMessages)
		}
	}
	// The count may be false, so the size of the rest bounds the allocation.
	room := min(count, d.reader.Len()/smallestMessage)
	messages := make([]*apiv1.Message, 0, room)
	var chunk []apiv1.Message
	for position := 1; position <= count; position++ {
		if len(chunk) == 0 {
			chunk = make([]apiv1.Message, max(1, min(room-len(messages), maxChunk)))
		}
		if err := d.message(&chunk[0]); err != nil {
			return nil, fmt.Errorf("message %d: %w", position, err)
		}
		messages = append(messages, &chunk[0])
		chunk = chunk[1:]
	}
	if extra := d.reader.Len(); extra > 0 {
		return nil, fmt.Errorf("the payload has %d bytes after its end", extra)
	}
	return messages, nil
}

// CheckFirst implements Decoder.
func (*MsgpackDecoder) CheckFirst(first byte) error {
	if k := kindOf(first); k != kindMap && k != kindArray {
		return fmt.Errorf("message 1: %w", notAMap(k, "Topic and Data"))
	}
	return nil
}

// message decodes one message into message, which must be zero.
func (d *MsgpackDecoder) message(message *apiv1.Message) error {
	start := d.offset()
	if len(d.lastHead) > 0 && bytes.HasPrefix(d.input[start:], d.lastHead) {
		d.reader.Reset(d.input[start+len(d.lastHead):])
		message.Topic = d.lastTopic
		return d.data(message)
	}
	if err := d.mapOf2("Topic and Data"); err != nil {
		return err
	}
	return d.entries(message, start)
}

// entries decodes the two entries of a message whose map begins at start.
func (d *MsgpackDecoder) entries(message *apiv1.Message, start int) error {
	var hasTopic, hasData bool
	for number := 1; number <= 2; number++ {
		key, err := d.key(number)
		if err != nil {
			return err
		}
		switch string(key) {
		case "Topic":
			if hasTopic {
				return errors.New(`entry "Topic" is there twice`)
			}
			hasTopic = true
			if message.Topic, err = d.topic(); err != nil {
				return err
			}
		case "Data":
			if hasData {
				return errors.New(`entry "Data" is there twice`)
			}
			hasData = true
			if hasTopic {
				d.lastHead = append(d.lastHead[:0], d.input[start:d.offset()]...)
				d.lastTopic = message.Topic
			}
			if err := d.data(message); err != nil {
				return err
			}
		default:
			return fmt.Errorf(`unknown entry %s, must be "Topic" or "Data"`, quote(key))
		}
	}
	return nil
}

// topic decodes the value of a message's entry "Topic".
func (d *MsgpackDecoder) topic() (string, error) {
	if k := d.peek(); k != kindString && k != kindNone {
		return "", fmt.Errorf(`entry "Topic" is %s, must be a string`, k)
	}
	name, err := d.readBytes(`entry "Topic"`)
	if err != nil {
		return "", err
	}
	if err := apiv1.CheckTopic(name); err != nil {
		return "", fmt.Errorf(`entry "Topic" %w`, err)
	}
	return string(name), nil
}

// data decodes the value of a message's entry "Data".
func (d *MsgpackDecoder) data(message *apiv1.Message) error {
	switch k := d.peek(); k {
	case kindString, kindBinary, kindNil, kindNone:
	default:
		return fmt.Errorf(`entry "Data" is %s, must be binary, a string or nil`, k)
	}
	var err error
	message.Data, err = d.readBytes(`entry "Data"`)
	return err
}

// DecodeReply returns the reply that data encodes in msgpack. Nothing may follow the reply.
func DecodeReply(data []byte) (*apiv1.Reply, error) {
	d := NewMsgpackDecoder(0) // a reply has no messages
	d.start(data)
	var reply apiv1.Reply
	var hasAccepted, hasError bool
	if err := d.mapOf2("Accepted and Error"); err != nil {
		return nil, fmt.Errorf("the reply %w", err)
	}
	for number := 1; number <= 2; number++ {
		key, err := d.key(number)
		if err != nil {
			return nil, fmt.Errorf("the reply: %w", err)
		}
		k := d.peek()
		switch {
		case string(key) == "Accepted" && !hasAccepted && k == kindInteger:
			hasAccepted = true
			if reply.Accepted, err = d.msgpack.DecodeInt(); err != nil {
				return nil, errors.New(`the reply ends early, in entry "Accepted"`)
			}
		case string(key) == "Error" && !hasError && k == kindString:
			hasError = true
			text, err := d.readBytes(`entry "Error"`)
			if err != nil {
				return nil, fmt.Errorf("the reply %w", err)
			}
			reply.Error = string(text)
		default:
			return nil, fmt.Errorf("the reply's entry %s, %s, is unknown, duplicate or wrong",
				quote(key), k)
		}
	}
	if extra := d.reader.Len(); extra > 0 {
		return nil, fmt.Errorf("the reply has %d bytes after its end", extra)
	}
	return &reply, nil
}

// offset returns how many bytes of the input have been decoded.
func (d *MsgpackDecoder) offset() int {
	return len(d.input) - d.reader.Len()
}

// start makes input the bytes to decode.
func (d *MsgpackDecoder) start(input []byte) {
	d.input = input
	d.reader.Reset(input)
}

// mapOf2 reads the header of a map that must have two entries, named by names.
func (d *MsgpackDecoder) mapOf2(names string) error {
	if k := d.peek(); k != kindMap && k != kindNone {
		return notAMap(k, names)
	}
	entries, err := d.msgpack.DecodeMapLen()
	if err != nil {
		return errors.New("ends early, in its map header")
	}
	if entries != 2 {
		return fmt.Errorf("has %d entries, must have 2: %s", uint32(entries), names)
	}
	return nil
}

// notAMap returns the error for a value of a kind that is not a map.
func notAMap(k kind, names string) error {
	return fmt.Errorf("is %s, must be a map of %s", k, names)
}

// key reads the key of a map's entry. number is 1 for the first entry, 2 for the second.
func (d *MsgpackDecoder) key(number int) ([]byte, error) {
	if k := d.peek(); k != kindString && k != kindNone {
		return nil, fmt.Errorf("key %d is %s, must be a string", number, k)
	}
	return d.readBytes([...]string{"key 1", "key 2"}[number-1])
}

// readBytes reads a string, a binary or nil, and returns its bytes, which are a part of the
// input. The error calls the value by name.
func (d *MsgpackDecoder) readBytes(name string) ([]byte, error) {
	length, err := d.msgpack.DecodeBytesLen()
	if err != nil {
		return nil, fmt.Errorf("ends early, in %s", name)
	}
	rest := d.reader.Len()
	start := d.offset()
	if length == -1 && d.input[start-1] == msgpcode.Nil {
		return nil, nil
	}
	if length < 0 || length > rest {
		return nil, fmt.Errorf("ends early, in %s: %d bytes declared, %d are there",
			name, uint32(length), rest)
	}
	d.reader.Reset(d.input[start+length:])
	return d.input[start : start+length : start+length], nil
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
	kindNone      kind = "nothing"
	kindNil       kind = "nil"
	kindUnused    kind = "the unused byte 0xc1"
	kindBoolean   kind = "a boolean"
	kindInteger   kind = "an integer"
	kindFloat     kind = "a float"
	kindString    kind = "a string"
	kindBinary    kind = "binary"
	kindArray     kind = "an array"
	kindMap       kind = "a map"
	kindExtension kind = "an extension"
)

// peek returns the kind of the next value without reading it. Callers check it first,
// because the library's DecodeMapLen and DecodeBytesLen accept more than one kind.
func (d *MsgpackDecoder) peek() kind {
	rest := d.input[d.offset():]
	if len(rest) == 0 {
		return kindNone
	}
	return kindOf(rest[0])
}

// kindOf returns the kind of a value that begins with code.
func kindOf(code byte) kind {
	switch {
	case msgpcode.IsBin(code):
		return kindBinary
	case msgpcode.IsFixedNum(code), code >= msgpcode.Uint8 && code <= msgpcode.Int64:
		return kindInteger
	case msgpcode.IsFixedMap(code), code == msgpcode.Map16, code == msgpcode.Map32:
		return kindMap
	case msgpcode.IsFixedArray(code), code == msgpcode.Array16, code == msgpcode.Array32:
		return kindArray
	case msgpcode.IsString(code):
		return kindString
	case msgpcode.IsExt(code):
		return kindExtension
	case code == msgpcode.Nil:
		return kindNil
	case code == msgpcode.False, code == msgpcode.True:
		return kindBoolean
	case code == msgpcode.Float, code == msgpcode.Double:
		return kindFloat
	}
	return kindUnused
}
