package decoder_test

import (
	"bytes"
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
)

// one is the message of good.
var one = []apiv1.Message{{Topic: "a", Data: []byte("1")}}

// accept fails the test unless payload decodes to want.
func accept(t *testing.T, payload string, want []apiv1.Message) {
	t.Helper()
	got, err := decoder.NewMsgpackDecoder(1 << 20).Decode([]byte(payload))
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
	got, err := decoder.NewMsgpackDecoder(1 << 20).Decode([]byte(payload))
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

	// Either order, long forms of short values, each form of data.
	accept(t, head+data+"\xc4\x011"+topic+"\xa1a", one)
	accept(t, "\xde\x00\x02"+topic+"\xa1a"+data+"\xc4\x011", one)
	accept(t, "\xdf\x00\x00\x00\x02"+topic+"\xa1a"+data+"\xc4\x011", one)
	accept(t, head+"\xd9\x05Topic"+"\xd9\x01a"+"\xda\x00\x04Data"+"\xc5\x00\x011", one)
	accept(t, head+"\xdb\x00\x00\x00\x05Topic"+"\xda\x00\x01a"+data+"\xc6\x00\x00\x00\x011", one)
	accept(t, head+topic+"\xdb\x00\x00\x00\x01a"+data+"\xa11", one)
	accept(t, head+topic+"\xa1a"+data+"\xd9\x011", one)
	accept(t, head+topic+"\xa1a"+data+"\xda\x00\x011", one)
	accept(t, head+topic+"\xa1a"+data+"\xdb\x00\x00\x00\x011", one)
	empty := []apiv1.Message{{Topic: "a"}}
	accept(t, head+topic+"\xa1a"+data+"\xc0", empty)
	accept(t, head+topic+"\xa1a"+data+"\xc4\x00", empty)
	accept(t, head+topic+"\xa1a"+data+"\xa0", empty)

	// No field of a message stays for the next.
	accept(t, "\x92"+good+head+topic+"\xa1b"+data+"\xc0", []apiv1.Message{one[0], {Topic: "b"}})

	for _, size := range []int{255, 256, 65535, 65536, 1 << 20} {
		text := strings.Repeat("\x00", size)
		header := string([]byte{0xc6, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)})
		accept(t, head+topic+"\xa1a"+data+header+text, []apiv1.Message{{Topic: "a", Data: []byte(text)}})
	}
	longest := strings.Repeat("x", 255)
	accept(t, head+topic+"\xd9\xff"+longest+data+"\xc0", []apiv1.Message{{Topic: longest}})
}

func TestDecodeRefuses(t *testing.T) {
	// Not a map.
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

	// Not two entries, or not these.
	refuse(t, "\x80", "message 1: has 0 entries, must have 2: Topic and Data")
	refuse(t, "\x81"+topic+"\xa1a", "message 1: has 1 entries, must have 2: Topic and Data")
	refuse(t, "\x83"+good[1:]+"\xa1x\xc0", "message 1: has 3 entries, must have 2: Topic and Data")
	refuse(t, "\xdf\xff\xff\xff\xff", "message 1: has 4294967295 entries, must have 2: Topic and Data")
	refuse(t, head+"\x01\x02", "message 1: key 1 is an integer, must be a string")
	refuse(t, head+"\xc4\x05Topic\xa1a"+data+"\xc0", "message 1: key 1 is binary, must be a string")
	refuse(t, head+"\xc0\xa1a"+data+"\xc0", "message 1: key 1 is nil, must be a string")
	refuse(t, head+topic+"\xa1a\x90\xc0", "message 1: key 2 is an array, must be a string")
	refuse(t, head+"\xa5topic\xa1a"+data+"\xc0", `message 1: unknown entry "topic", must be "Topic" or "Data"`)
	refuse(t, head+"\xa0\xa1a"+data+"\xc0", `message 1: unknown entry "", must be "Topic" or "Data"`)
	refuse(t, head+topic+"\xa1a"+topic+"\xa1a", `message 1: entry "Topic" is there twice`)
	refuse(t, "\x92"+good+head+data+"\xc0"+data+"\xc0", `message 2: entry "Data" is there twice`)

	// Values that are wrong.
	refuse(t, head+topic+"\xc0"+data+"\xc0", `message 1: entry "Topic" is nil, must be a string`)
	refuse(t, head+topic+"\xc4\x01a"+data+"\xc0", `message 1: entry "Topic" is binary, must be a string`)
	refuse(t, head+topic+"\xa0"+data+"\xc0", `message 1: entry "Topic" is 0 bytes long, must be 1 to 255`)
	refuse(t, head+topic+"\xda\x01\x00"+strings.Repeat("x", 256)+data+"\xc0", `message 1: entry "Topic" is 256 bytes long, must be 1 to 255`)
	refuse(t, head+topic+"\xa3a\nb"+data+"\xc0", `message 1: entry "Topic" is not printable UTF-8 at byte 2`)
	refuse(t, head+topic+"\xa1\xff"+data+"\xc0", `message 1: entry "Topic" is not printable UTF-8 at byte 1`)
	refuse(t, head+topic+"\xa1a"+data+"\x01", `message 1: entry "Data" is an integer, must be binary, a string or nil`)
	refuse(t, head+topic+"\xa1a"+data+"\xd6\x01abcd", `message 1: entry "Data" is an extension, must be binary, a string or nil`)
	refuse(t, head+topic+"\xa1a"+data+"\x91\xc0", `message 1: entry "Data" is an array, must be binary, a string or nil`)

	// Too short, too long, false lengths and counts.
	refuse(t, "\xdc", "the payload ends early, in its array header")
	refuse(t, "\xdd\x00\x00", "the payload ends early, in its array header")
	refuse(t, "\xde\x00", "message 1: ends early, in its map header")
	refuse(t, "\x92"+good, "message 2: ends early, in its map header")
	refuse(t, "\xdd\x00\x0f\xff\xff"+good, "message 2: ends early, in its map header")
	refuse(t, "\xdd\x00\x10\x00\x00"+good, "message 2: ends early, in its map header")
	refuse(t, "\xdd\x00\x10\x00\x01"+good, "the payload is too large: 1048577 messages, at most 1048576 can be queued")
	refuse(t, "\xdd\xff\xff\xff\xff"+good, "the payload is too large: 4294967295 messages, at most 1048576 can be queued")
	refuse(t, head, "message 1: ends early, in key 1")
	refuse(t, head+topic, `message 1: ends early, in entry "Topic"`)
	refuse(t, head+topic+"\xa1a", "message 1: ends early, in key 2")
	refuse(t, head+topic+"\xa1a"+data, `message 1: ends early, in entry "Data"`)
	refuse(t, head+topic+"\xa1a"+data+"\xc5\x00", `message 1: ends early, in entry "Data"`)
	refuse(t, head+topic+"\xa9a", `message 1: ends early, in entry "Topic": 9 bytes declared, 1 are there`)
	refuse(t, head+"\xdb\xff\xff\xff\xffTopic", "message 1: ends early, in key 1: 4294967295 bytes declared, 5 are there")
	refuse(t, head+topic+"\xa1a"+data+"\xc6\xff\xff\xff\xff123", `message 1: ends early, in entry "Data": 4294967295 bytes declared, 3 are there`)
	refuse(t, good+"\x00", "the payload has 1 bytes after its end")
	refuse(t, "\x91"+good+good, fmt.Sprintf("the payload has %d bytes after its end", len(good)))
	refuse(t, "\x90\xc0", "the payload has 1 bytes after its end")
}

// Every cut of a valid payload is refused, whole.
func TestDecodeRefusesEveryCut(t *testing.T) {
	payload := "\xdc\x00\x03" + good + head + data + "\xc6\x00\x00\x00\x05bytes" + topic + "\xd9\x05topic" +
		"\xdf\x00\x00\x00\x02" + topic + "\xa1a" + data + "\xc0"
	accept(t, payload, []apiv1.Message{one[0], {Topic: "topic", Data: []byte("bytes")}, {Topic: "a"}})
	decoder := decoder.NewMsgpackDecoder(1 << 20)
	for cut := 1; cut < len(payload); cut++ {
		messages, err := decoder.Decode([]byte(payload[:cut]))
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
		_, err := decoder.NewMsgpackDecoder(1 << 20).Decode([]byte(head + length + key + topic + "\xa1a"))
		if err == nil || utf8.RuneCountInString(err.Error()) > 200 || !strings.HasPrefix(err.Error(), "message 1: unknown entry ") {
			t.Errorf("key of %q: %v", character, err)
		}
	}
}

func TestDecodeReply(t *testing.T) {
	const accepted, fault = "\xa8Accepted", "\xa5Error"
	for encoded, want := range map[string]apiv1.Reply{
		"\x82" + accepted + "\x07" + fault + "\xa0":                              {Accepted: 7},
		"\x82" + fault + "\xa3why" + accepted + "\x00":                           {Error: "why"},
		"\x82" + accepted + "\xcd\x03\xe8" + fault + "\xa0":                      {Accepted: 1000},
		"\xde\x00\x02" + accepted + "\xd2\x00\x00\x00\x01" + fault + "\xd9\x01x": {Accepted: 1, Error: "x"},
	} {
		got, err := decoder.NewMsgpackDecoder(1 << 20).DecodeReply([]byte(encoded))
		if err != nil || *got != want {
			t.Errorf("%q: got %+v, error %v", encoded, got, err)
		}
		for cut := range len(encoded) {
			if got, err := decoder.NewMsgpackDecoder(1 << 20).DecodeReply([]byte(encoded[:cut])); got != nil || err == nil {
				t.Errorf("%q is taken for a reply", encoded[:cut])
			}
		}
	}
	for _, encoded := range []string{
		"", "HTTP/1.1 400 Bad Request\r\n", "\xc0", "\x80", "\x90", "\xc1",
		"\x82" + accepted + "\xc0" + fault + "\xa0",
		"\x82" + accepted + "\x01" + fault + "\xc0",
		"\x82" + accepted + "\x01" + fault + "\xc4\x00",
		"\x82" + accepted + "\x01" + accepted + "\x01",
		"\x82" + fault + "\xa0" + fault + "\xa0",
		"\x82" + accepted + "\xcb\x00\x00\x00\x00\x00\x00\x00\x00" + fault + "\xa0",
		"\x82" + accepted + "\x01" + fault + "\xa0\x00",
		"\x82" + accepted + "\x01" + "\xa5Other" + "\xa0",
		"\x83" + accepted + "\x01" + fault + "\xa0\xa1x\xc0",
	} {
		if got, err := decoder.NewMsgpackDecoder(1 << 20).DecodeReply([]byte(encoded)); got != nil || err == nil {
			t.Errorf("%q is taken for the reply %+v", encoded, got)
		}
	}
}

// allocates returns whether work always allocates more than limit bytes. The
// runtime counts by the span and for the whole process, the fuzzing engine's
// goroutines included, so one measurement may be too large.
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

// What a decoder remembers of one message changes nothing about the next.
func TestDecodeRemembers(t *testing.T) {
	one := decoder.NewMsgpackDecoder(1 << 20)
	for _, payload := range []string{
		good, good, head + topic + "\xa1a" + data + "\xc0", head + topic + "\xa1a" + data + "\xa3\x00\x01\x02",
		head + topic + "\xa1a" + data + "\x01", head + topic + "\xa1a" + data, head + topic + "\xa1a" + data + "\xc4\x02x",
		head + topic + "\xa1b" + data + "\xc0", head + topic + "\xd9\x01b" + data + "\xc0", head + data + "\xc0" + topic + "\xa1c",
		"\x93" + good + head + data + "\xc0" + topic + "\xa1c" + good, head + topic + "\xa2ab" + data + "\xc0", head + topic + "\xa1" + data,
		head + topic + "\xa1a" + data + "\xc0" + "x", head + topic + "\xa1a", head + topic + "\xa1\n" + data + "\xc0", head + topic + "\xa1\n" + data + "\xc0",
	} {
		for range 2 {
			got, err := one.Decode([]byte(payload))
			want, wrong := decoder.NewMsgpackDecoder(1 << 20).Decode([]byte(payload))
			if fmt.Sprint(err) != fmt.Sprint(wrong) || !reflect.DeepEqual(got, want) {
				t.Errorf("%q: got %v, %v, want %v, %v", payload, got, err, want, wrong)
			}
		}
	}
}

// FuzzDecode: what is accepted means the same when it is encoded and decoded
// again, what is refused yields nothing, and neither takes much memory.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "\x90", good, "\x92" + good + good, head + data + "\xc0" + topic + "\xa1b",
		"\xdd\xff\xff\xff\xff" + good, "\xdd\x00\x0f\xff\xff" + good, head + "\xdb\xff\xff\xff\xffTopic", head + topic + "\xa1a" + data + "\xc6\xff\xff\xff\xff",
		"\xdf\xff\xff\xff\xff", strings.Repeat("\x91", 1000), "\xc7\x00\x01" + good, "GET / HTTP/1.1\r\n\r\n",
		"\xdc\x03\xe8" + strings.Repeat(head+topic+"\xa1a"+data+"\xc0", 1000),
	} {
		f.Add([]byte(seed))
	}
	newDecoder := func() *decoder.MsgpackDecoder { return decoder.NewMsgpackDecoder(1 << 20) }
	decoder := newDecoder() // one for all: no input may spoil the next
	f.Fuzz(func(t *testing.T, payload []byte) {
		var messages []*apiv1.Message
		var err error
		if allocates(uint64(6*len(payload)+64<<10), func() { messages, err = decoder.Decode(payload) }) {
			t.Errorf("too much memory is allocated for %d bytes", len(payload))
		}
		fresh, wrong := newDecoder().Decode(payload) // which remembers nothing
		if fmt.Sprint(err) != fmt.Sprint(wrong) || !reflect.DeepEqual(messages, fresh) {
			t.Errorf("another decoder says %v, this one %v", wrong, err)
		}
		if err != nil {
			if messages != nil {
				t.Errorf("%d messages in spite of %v", len(messages), err)
			}
			if utf8.RuneCountInString(err.Error()) > 200 {
				t.Errorf("the reason has more than 200 characters: %v", err)
			}
			return
		}
		encoded, err := encoder.NewMsgpackEncoder().Encode(messages)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decoder.Decode(encoded)
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
	})
}
