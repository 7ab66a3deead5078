package decoder_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"runtime/metrics"
	"strings"
	"testing"
	"unicode/utf8"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// The pieces of a message, written by hand from the msgpack specification.
const (
	head  = "\x82"
	topic = "\xa5Topic"
	data  = "\xa4Data"
	good  = head + topic + "\xa1a" + data + "\xc4\x011"

	topicA  = topic + "\xa1a" // a whole entry
	nilData = data + "\xc0"   // another: the data is nil
	maximum = 1 << 20         // messages in a payload
)

// one is the message of good.
var one = []apiv1.Message{{Topic: "a", Data: []byte("1")}}

// accept fails the test unless payload decodes to want.
func accept(t *testing.T, payload string, want []apiv1.Message) {
	t.Helper()
	got, err := decoder.NewMsgpackDecoder(maximum).Decode([]byte(payload))
	if err != nil {
		t.Errorf("%q: refused: %v", payload, err)
		return
	}
	if len(got) != len(want) {
		t.Errorf("%q: %d messages, want %d", payload, len(got), len(want))
		return
	}
	for i := range want {
		if got[i].Topic != want[i].Topic || !bytes.Equal(got[i].Data, want[i].Data) {
			t.Errorf("%q: message %d is %q, want %q", payload, i+1, *got[i], want[i])
		}
	}
}

// refuse fails the test unless payload is refused with reason.
func refuse(t *testing.T, payload, reason string) {
	t.Helper()
	got, err := decoder.NewMsgpackDecoder(maximum).Decode([]byte(payload))
	if got != nil || err == nil || err.Error() != reason {
		t.Errorf("%q: got %d messages and %v\nwant refused: %s", payload, len(got), err, reason)
	}
}

func TestDecodeAccepts(t *testing.T) {
	accept(t, "", nil)
	accept(t, "\x90", nil)
	accept(t, "\xdc\x00\x00", nil)
	accept(t, good, one)
	accept(t, "\x91"+good, one)
	accept(t, "\xdc\x00\x01"+good, one)
	accept(t, "\xdd\x00\x00\x00\x01"+good, one)
	accept(t, "\x93"+good+good+good, []apiv1.Message{one[0], one[0], one[0]})

	// Either order of the entries, long forms of short values, each form of data.
	accept(t, head+data+"\xc4\x011"+topicA, one)
	accept(t, "\xde\x00\x02"+topicA+data+"\xc4\x011", one)
	accept(t, "\xdf\x00\x00\x00\x02"+topicA+data+"\xc4\x011", one)
	accept(t, head+"\xd9\x05Topic"+"\xd9\x01a"+"\xda\x00\x04Data"+"\xc5\x00\x011", one)
	accept(t, head+"\xdb\x00\x00\x00\x05Topic"+"\xda\x00\x01a"+data+"\xc6\x00\x00\x00\x011", one)
	accept(t, head+topic+"\xdb\x00\x00\x00\x01a"+data+"\xa11", one)
	accept(t, head+topicA+data+"\xd9\x011", one)
	accept(t, head+topicA+data+"\xda\x00\x011", one)
	accept(t, head+topicA+data+"\xdb\x00\x00\x00\x011", one)
	empty := []apiv1.Message{{Topic: "a"}}
	accept(t, head+topicA+nilData, empty)
	accept(t, head+topicA+data+"\xc4\x00", empty)
	accept(t, head+topicA+data+"\xa0", empty)

	// No message has a field of the one before.
	accept(t, "\x92"+good+head+topic+"\xa1b"+nilData, []apiv1.Message{one[0], {Topic: "b"}})

	for _, size := range []int{255, 256, 65535, 65536, 1 << 20} {
		text := strings.Repeat("\x00", size)
		header := string(binary.BigEndian.AppendUint32([]byte{0xc6}, uint32(size)))
		accept(t, head+topicA+data+header+text, []apiv1.Message{{Topic: "a", Data: []byte(text)}})
	}
	longest := strings.Repeat("x", 255)
	accept(t, head+topic+"\xd9\xff"+longest+nilData, []apiv1.Message{{Topic: longest}})
}

// A message must be a map.
func TestDecodeRefusesOtherKinds(t *testing.T) {
	refuse(t, "G", "message 1: is an integer, must be a map of Topic and Data")
	refuse(t, "\xe0", "message 1: is an integer, must be a map of Topic and Data")
	refuse(t, "\xcf", "message 1: is an integer, must be a map of Topic and Data")
	refuse(t, "\xd3", "message 1: is an integer, must be a map of Topic and Data")
	refuse(t, "\xa1a", "message 1: is a string, must be a map of Topic and Data")
	refuse(t, "\xdb", "message 1: is a string, must be a map of Topic and Data")
	refuse(t, "\xc4\x00", "message 1: is binary, must be a map of Topic and Data")
	refuse(t, "\xc0", "message 1: is nil, must be a map of Topic and Data")
	refuse(t, "\xc1", "message 1: is the unused byte 0xc1, must be a map of Topic and Data")
	refuse(t, "\xc3", "message 1: is a boolean, must be a map of Topic and Data")
	refuse(t, "\xca", "message 1: is a float, must be a map of Topic and Data")
	refuse(t, "\xcb", "message 1: is a float, must be a map of Topic and Data")
	refuse(t, "\xd4", "message 1: is an extension, must be a map of Topic and Data")
	refuse(t, "\x91\x90", "message 1: is an array, must be a map of Topic and Data")
	refuse(t, "\x92"+good+"\xc0", "message 2: is nil, must be a map of Topic and Data")
	// The library takes the head of an extension for that of a map.
	refuse(t, "\xc7\x00\x01"+good, "message 1: is an extension, must be a map of Topic and Data")
	refuse(t, "\xd4\x01"+good, "message 1: is an extension, must be a map of Topic and Data")
}

// A message must have two entries, and these two.
func TestDecodeRefusesOtherEntries(t *testing.T) {
	refuse(t, "\x80", "message 1: has 0 entries, must have 2: Topic and Data")
	refuse(t, "\x81"+topicA, "message 1: has 1 entries, must have 2: Topic and Data")
	refuse(t, "\x83"+good[1:]+"\xa1x\xc0", "message 1: has 3 entries, must have 2: Topic and Data")
	refuse(t, "\xdf\xff\xff\xff\xff",
		"message 1: has 4294967295 entries, must have 2: Topic and Data")
	refuse(t, head+"\x01\x02", "message 1: key 1 is an integer, must be a string")
	refuse(t, head+"\xc4\x05Topic\xa1a"+nilData, "message 1: key 1 is binary, must be a string")
	refuse(t, head+"\xc0\xa1a"+nilData, "message 1: key 1 is nil, must be a string")
	refuse(t, head+topic+"\xa1a\x90\xc0", "message 1: key 2 is an array, must be a string")
	refuse(t, head+"\xa5topic\xa1a"+nilData,
		`message 1: unknown entry "topic", must be "Topic" or "Data"`)
	refuse(t, head+"\xa0\xa1a"+nilData, `message 1: unknown entry "", must be "Topic" or "Data"`)
	refuse(t, head+topicA+topicA, `message 1: entry "Topic" is there twice`)
	refuse(t, "\x92"+good+head+nilData+nilData, `message 2: entry "Data" is there twice`)
}

func TestDecodeRefusesWrongValues(t *testing.T) {
	refuse(t, head+topic+"\xc0"+nilData, `message 1: entry "Topic" is nil, must be a string`)
	refuse(t, head+topic+"\xc4\x01a"+nilData,
		`message 1: entry "Topic" is binary, must be a string`)
	refuse(t, head+topic+"\xa0"+nilData,
		`message 1: entry "Topic" is 0 bytes long, must be 1 to 255`)
	refuse(t, head+topic+"\xda\x01\x00"+strings.Repeat("x", 256)+nilData,
		`message 1: entry "Topic" is 256 bytes long, must be 1 to 255`)
	refuse(t, head+topic+"\xa3a\nb"+nilData,
		`message 1: entry "Topic" is not printable UTF-8 at byte 2`)
	refuse(t, head+topic+"\xa1\xff"+nilData,
		`message 1: entry "Topic" is not printable UTF-8 at byte 1`)
	refuse(t, head+topicA+data+"\x01",
		`message 1: entry "Data" is an integer, must be binary, a string or nil`)
	refuse(t, head+topicA+data+"\xd6\x01abcd",
		`message 1: entry "Data" is an extension, must be binary, a string or nil`)
	refuse(t, head+topicA+data+"\x91\xc0",
		`message 1: entry "Data" is an array, must be binary, a string or nil`)
}

// Payloads that are too short or too long, and false lengths and counts.
func TestDecodeRefusesWrongLengths(t *testing.T) {
	refuse(t, "\xdc", "the payload ends early, in its array header")
	refuse(t, "\xdd\x00\x00", "the payload ends early, in its array header")
	refuse(t, "\xde\x00", "message 1: ends early, in its map header")
	refuse(t, "\x92"+good, "message 2: ends early, in its map header")
	refuse(t, "\xdd\x00\x0f\xff\xff"+good, "message 2: ends early, in its map header")
	refuse(t, "\xdd\x00\x10\x00\x00"+good, "message 2: ends early, in its map header")
	refuse(t, "\xdd\x00\x10\x00\x01"+good,
		"the payload is too large: 1048577 messages, at most 1048576 can be queued")
	refuse(t, "\xdd\xff\xff\xff\xff"+good,
		"the payload is too large: 4294967295 messages, at most 1048576 can be queued")
	refuse(t, head, "message 1: ends early, in key 1")
	refuse(t, head+topic, `message 1: ends early, in entry "Topic"`)
	refuse(t, head+topicA, "message 1: ends early, in key 2")
	refuse(t, head+topicA+data, `message 1: ends early, in entry "Data"`)
	refuse(t, head+topicA+data+"\xc5\x00", `message 1: ends early, in entry "Data"`)
	refuse(t, head+topic+"\xa9a",
		`message 1: ends early, in entry "Topic": 9 bytes declared, 1 are there`)
	refuse(t, head+"\xdb\xff\xff\xff\xffTopic",
		"message 1: ends early, in key 1: 4294967295 bytes declared, 5 are there")
	refuse(t, head+topicA+data+"\xc6\xff\xff\xff\xff123",
		`message 1: ends early, in entry "Data": 4294967295 bytes declared, 3 are there`)
	refuse(t, good+"\x00", "the payload has 1 bytes after its end")
	refuse(t, "\x91"+good+good, fmt.Sprintf("the payload has %d bytes after its end", len(good)))
	refuse(t, "\x90\xc0", "the payload has 1 bytes after its end")
}

// Every cut of a valid payload is refused, whole.
func TestDecodeRefusesEveryCut(t *testing.T) {
	payload := "\xdc\x00\x03" + good +
		head + data + "\xc6\x00\x00\x00\x05bytes" + topic + "\xd9\x05topic" +
		"\xdf\x00\x00\x00\x02" + topicA + nilData
	second := apiv1.Message{Topic: "topic", Data: []byte("bytes")}
	accept(t, payload, []apiv1.Message{one[0], second, {Topic: "a"}})
	used := decoder.NewMsgpackDecoder(maximum)
	for cut := 1; cut < len(payload); cut++ {
		messages, err := used.Decode([]byte(payload[:cut]))
		if messages != nil || err == nil || !strings.Contains(err.Error(), "ends early, in ") {
			t.Errorf("cut at %d: %d messages, error %v", cut, len(messages), err)
		}
	}
}

// A reason stays short and printable whatever the key.
func TestReasonIsBounded(t *testing.T) {
	for _, character := range []string{"x", "\x00", "\xff", "\u0085", "\U000e0001", `"`, "注"} {
		key := strings.Repeat(character, 65535/len(character))
		length := string([]byte{0xda, byte(len(key) >> 8), byte(len(key))})
		_, err := decoder.NewMsgpackDecoder(maximum).Decode([]byte(head + length + key + topicA))
		if err == nil || utf8.RuneCountInString(err.Error()) > 200 ||
			!strings.HasPrefix(err.Error(), "message 1: unknown entry ") {
			t.Errorf("key of %q: %v", character, err)
		}
	}
}

// The keys of a reply.
const accepted, fault = "\xa8Accepted", "\xa5Error"

func TestDecodeReply(t *testing.T) {
	for encoded, want := range map[string]apiv1.Reply{
		head + accepted + "\x07" + fault + "\xa0":         {Accepted: 7},
		head + fault + "\xa3why" + accepted + "\x00":      {Error: "why"},
		head + accepted + "\xcd\x03\xe8" + fault + "\xa0": {Accepted: 1000},

		// Long forms of short values.
		"\xde\x00\x02" + accepted + "\xd2\x00\x00\x00\x01" + fault + "\xd9\x01x": {
			Accepted: 1, Error: "x"},
	} {
		got, err := decoder.DecodeReply([]byte(encoded))
		if err != nil || *got != want {
			t.Errorf("%q: got %+v, error %v", encoded, got, err)
		}
		for cut := range len(encoded) {
			if got, err := decoder.DecodeReply([]byte(encoded[:cut])); got != nil || err == nil {
				t.Errorf("%q is taken for a reply", encoded[:cut])
			}
		}
	}
}

func TestDecodeReplyRefuses(t *testing.T) {
	for _, encoded := range []string{
		"", "HTTP/1.1 400 Bad Request\r\n", "\xc0", "\x80", "\x90", "\xc1",
		head + accepted + "\xc0" + fault + "\xa0",
		head + accepted + "\x01" + fault + "\xc0",
		head + accepted + "\x01" + fault + "\xc4\x00",
		head + accepted + "\x01" + accepted + "\x01",
		head + fault + "\xa0" + fault + "\xa0",
		head + accepted + "\xcb\x00\x00\x00\x00\x00\x00\x00\x00" + fault + "\xa0",
		head + accepted + "\x01" + fault + "\xa0\x00",
		head + accepted + "\x01" + "\xa5Other" + "\xa0",
		"\x83" + accepted + "\x01" + fault + "\xa0\xa1x\xc0",
	} {
		if got, err := decoder.DecodeReply([]byte(encoded)); got != nil || err == nil {
			t.Errorf("%q is taken for the reply %+v", encoded, got)
		}
	}
}

// allocates returns whether work allocates more than limit bytes each time. One
// measurement may be too large: the runtime counts whole spans, and it counts the
// allocations of all goroutines, those of the fuzzing engine included.
func allocates(limit uint64, work func()) bool {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for range 5 {
		metrics.Read(sample)
		before := sample[0].Value.Uint64()
		work()
		metrics.Read(sample)
		if sample[0].Value.Uint64()-before <= limit {
			return false
		}
	}
	return true
}

// A decoder that remembers a message decodes the next one as a new decoder does.
func TestDecodeRemembers(t *testing.T) {
	used := decoder.NewMsgpackDecoder(maximum)
	for _, payload := range []string{
		good, good,
		head + topicA + nilData,
		head + topicA + data + "\xa3\x00\x01\x02",
		head + topicA + data + "\x01",
		head + topicA + data,
		head + topicA + data + "\xc4\x02x",
		head + topic + "\xa1b" + nilData,
		head + topic + "\xd9\x01b" + nilData,
		head + nilData + topic + "\xa1c",
		"\x93" + good + head + nilData + topic + "\xa1c" + good,
		head + topic + "\xa2ab" + nilData,
		head + topic + "\xa1" + data,
		head + topicA + nilData + "x",
		head + topicA,
		head + topic + "\xa1\n" + nilData,
		head + topic + "\xa1\n" + nilData,
	} {
		for range 2 {
			got, err := used.Decode([]byte(payload))
			want, wrong := decoder.NewMsgpackDecoder(maximum).Decode([]byte(payload))
			if fmt.Sprint(err) != fmt.Sprint(wrong) || !reflect.DeepEqual(got, want) {
				t.Errorf("%q: got %v, %v, want %v, %v", payload, got, err, want, wrong)
			}
		}
	}
}

// FuzzDecode decodes any bytes. Messages that are accepted are the same when they are
// encoded and decoded again. A refused payload yields no message. Neither takes much
// memory.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "\x90", good, "\x92" + good + good, head + nilData + topic + "\xa1b",
		"\xdd\xff\xff\xff\xff" + good, "\xdd\x00\x0f\xff\xff" + good,
		head + "\xdb\xff\xff\xff\xffTopic", head + topicA + data + "\xc6\xff\xff\xff\xff",
		"\xdf\xff\xff\xff\xff", strings.Repeat("\x91", 1000), "\xc7\x00\x01" + good,
		"GET / HTTP/1.1\r\n\r\n",
		"\xdc\x03\xe8" + strings.Repeat(head+topicA+nilData, 1000),
	} {
		f.Add([]byte(seed))
	}
	newDecoder := func() *decoder.MsgpackDecoder { return decoder.NewMsgpackDecoder(maximum) }
	used := newDecoder() // for all inputs: none may spoil the next
	f.Fuzz(func(t *testing.T, payload []byte) {
		var messages []*apiv1.Message
		var err error
		decode := func() { messages, err = used.Decode(payload) }
		if allocates(uint64(6*len(payload)+64<<10), decode) {
			t.Errorf("too much memory is allocated for %d bytes", len(payload))
		}
		fresh, wrong := newDecoder().Decode(payload)
		if fmt.Sprint(err) != fmt.Sprint(wrong) || !reflect.DeepEqual(messages, fresh) {
			t.Errorf("got %v and %v, and from a new decoder %v and %v",
				messages, err, fresh, wrong)
		}
		if err != nil {
			if messages != nil {
				t.Errorf("got %d messages and the error %v", len(messages), err)
			}
			if utf8.RuneCountInString(err.Error()) > 200 {
				t.Errorf("the reason has more than 200 characters: %v", err)
			}
			return
		}
		encodeAgain(t, used, messages)
	})
}

// encodeAgain fails the test unless the messages are valid, and the same after they were encoded
// and decoded.
func encodeAgain(t *testing.T, used *decoder.MsgpackDecoder, messages []*apiv1.Message) {
	t.Helper()
	encoded, err := encoder.NewMsgpackEncoder().Encode(messages)
	if err != nil {
		t.Fatal(err)
	}
	again, err := used.Decode(encoded)
	if err != nil || len(again) != len(messages) {
		t.Fatalf("%d messages became %d: %v", len(messages), len(again), err)
	}
	for i, message := range messages {
		if again[i].Topic != message.Topic || !bytes.Equal(again[i].Data, message.Data) {
			t.Errorf("message %d: %q became %q", i+1, *message, *again[i])
		}
		if err := apiv1.CheckTopic([]byte(message.Topic)); err != nil {
			t.Errorf("message %d: accepted topic %q %v", i+1, message.Topic, err)
		}
	}
}
