package cmd_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/bustest"
)

// The broker gives the right reply to each of many hostile payloads. After each it accepts a
// valid message, and its memory is within its bound.
func TestHostilePayloads(t *testing.T) { eachLog(t, testHostilePayloads) }

func testHostilePayloads(t *testing.T, start starter) {
	const maxPayload, maxQueued = 1 << 20, 8 << 20
	broker := start(t, filepath.Join(t.TempDir(), "log"), "-interval", "10ms",
		"-max-payload", fmt.Sprint(maxPayload), "-max-queued", fmt.Sprint(maxQueued))
	limit := bound(maxQueued, maxPayload)
	if bustest.RaceDetector {
		limit *= 8 // the race detector needs memory, too
	}
	payloads := hostilePayloads(maxPayload)
	refusals, accepted, wrong := 0, 0, 0
	for name, test := range payloads {
		reply, err := broker.Post(test.payload)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if reply.Error != "" {
			refusals++
		}
		accepted += reply.Accepted
		if !test.allows(reply) {
			t.Errorf("%s: the reply is %+v, want %d accepted (-1: refused)",
				name, *reply, test.want)
			wrong++
		}
		reply, err = broker.Post(goodMessage)
		if err != nil || *reply != (apiv1.Reply{Accepted: 1}) {
			t.Fatalf("after %s: the reply to a valid message is %+v, %v", name, reply, err)
		}
		if peak := broker.peakMemory(); peak > limit {
			t.Fatalf("after %s: the peak memory is %d bytes, want at most %d", name, peak, limit)
		}
	}
	peak := broker.peakMemory()
	broker.stop()
	checkHostileLog(t, broker.Log.String(), accepted+len(payloads), refusals)
	t.Logf("figure: %d hostile payloads: %d refused, %d replies wrong, %d messages accepted; "+
		"peak memory %d MiB, bound %d MiB",
		len(payloads), refusals, wrong, accepted, peak>>20, limit>>20)
}

// checkHostileLog fails the test unless a log has these numbers of messages and refusals, and no
// line that a broker does not write. The log must not have a message on the topic orders, which
// hostile data tries to forge.
func checkHostileLog(t *testing.T, log string, messages, refusals int) {
	t.Helper()
	known := regexp.MustCompile(`^(Broker: |creating topic |(\d+ )?new messages? dispatched on ` +
		`|Received new message from topic '|refused payload from 127\.0\.0\.1:\d+: )`)
	gotRefusals := 0
	for _, line := range bustest.Lines(t, log) {
		if !known.MatchString(line) {
			t.Errorf("the log has the foreign line %.300q", line)
		}
		if strings.HasPrefix(line, "refused payload ") {
			gotRefusals++
		}
	}
	if gotRefusals != refusals {
		t.Errorf("the log has %d refusals, want %d", gotRefusals, refusals)
	}
	if got := len(bustest.Messages(t, log)); got != messages {
		t.Errorf("the log has %d messages, want %d", got, messages)
	}
	if forged := bustest.Received(t, log)["orders"]; forged != nil {
		t.Errorf("the log has the forged messages %q", forged)
	}
}

// The parts of a message, written by hand after the msgpack specification.
const (
	topicKey    = "\xa5Topic"
	dataKey     = "\xa4Data"
	upToData    = "\x82" + topicKey + "\xa1a" + dataKey // a message up to its data
	goodMessage = upToData + "\xc4\x011"
)

// refused stands for the number of accepted messages of a payload that must be refused.
const refused = -1

// hostilePayload is a payload and the reply that the broker must give to it.
type hostilePayload struct {
	payload string
	want    int // the number of messages to accept, or refused
}

// allows reports whether reply is right for the payload.
func (p hostilePayload) allows(reply *apiv1.Reply) bool {
	if p.want == refused {
		return reply.Accepted == 0 && reply.Error != ""
	}
	return *reply == apiv1.Reply{Accepted: p.want}
}

// hostile has hostile payloads, by name.
type hostile map[string]hostilePayload

// add adds a payload under a name that is not in use.
func (h hostile) add(name, payload string, want int) {
	if _, taken := h[name]; taken {
		panic("two payloads have the name " + name)
	}
	h[name] = hostilePayload{payload, want}
}

// refuse adds a payload that must be refused.
func (h hostile) refuse(name, payload string) {
	h.add(name, payload, refused)
}

// hostilePayloads returns hostile payloads for a broker with this -max-payload.
func hostilePayloads(maxPayload int) hostile {
	payloads := make(hostile)
	payloads.addCuts()
	payloads.addStringLengths()
	payloads.addCounts()
	payloads.addForeignValues()
	payloads.addEntries()
	payloads.addLimits(maxPayload)
	payloads.addTexts()
	payloads.addGreetings()
	return payloads
}

// header returns a msgpack header: the code, then the length as a big-endian number of size
// bytes.
func header(code byte, size int, length int64) string {
	header := []byte{code}
	for shift := 8 * (size - 1); shift >= 0; shift -= 8 {
		header = append(header, byte(length>>shift))
	}
	return string(header)
}

// addCuts adds every proper prefix of a valid payload.
func (h hostile) addCuts() {
	whole := "\xdc\x00\x03" + goodMessage + goodMessage + goodMessage
	for cut := 1; cut < len(whole); cut++ {
		h.refuse(fmt.Sprint("truncated at ", cut), whole[:cut])
	}
}

// addStringLengths adds strings and binaries in every form, with right and wrong lengths.
func (h hostile) addStringLengths() {
	for _, place := range []struct{ name, before, text, after string }{
		{"key", "\x82", "Topic", "\xa1a" + dataKey + "\xc0"},
		{"topic", "\x82" + topicKey, "a", dataKey + "\xc0"},
		{"data", upToData, "1", ""},
		{"data first", "\x82" + dataKey, "1", topicKey + "\xa1a"},
	} {
		for _, form := range []struct {
			name  string
			code  byte
			size  int
			valid bool // valid in every place, not only as data
		}{
			{"str8", 0xd9, 1, true}, {"str16", 0xda, 2, true}, {"str32", 0xdb, 4, true},
			{"bin8", 0xc4, 1, false}, {"bin16", 0xc5, 2, false}, {"bin32", 0xc6, 4, false},
		} {
			add := func(name string, length int64, want int) {
				text := header(form.code, form.size, length) + place.text + place.after
				name = fmt.Sprintf("%s of the %s with %s", form.name, place.name, name)
				h.add(name, place.before+text, want)
			}
			length, rest := int64(len(place.text)), int64(len(place.text+place.after))
			if form.valid || strings.HasPrefix(place.name, "data") {
				add("its length", length, 1)
			} else {
				add("its length", length, refused)
			}
			add("one more", length+1, refused)
			add("one less", length-1, refused)
			add("all and one more", rest+1, refused)
			add("the most", 1<<(8*form.size)-1, refused)
			add("half the most", 1<<(8*form.size-1), refused)
		}
	}
}

// addCounts adds arrays and maps with right and wrong counts.
func (h hostile) addCounts() {
	for name, head := range map[string]string{
		"fixarray": "\x93", "array16": header(0xdc, 2, 3), "array32": header(0xdd, 4, 3),
	} {
		h.add(name+" of 3", head+goodMessage+goodMessage+goodMessage, 3)
		h.refuse(name+" with one less", head+goodMessage+goodMessage+goodMessage+goodMessage)
		h.refuse(name+" with one more", head+goodMessage+goodMessage)
	}
	h.refuse("array16 with the most", header(0xdc, 2, 1<<16-1)+goodMessage)
	h.refuse("array32 with the most", header(0xdd, 4, 1<<32-1)+goodMessage)
	h.refuse("array32 with the sign", header(0xdd, 4, 1<<31)+goodMessage)
	h.add("array32 of nothing", header(0xdd, 4, 0), 0)

	for entries := range 16 {
		if entries != 2 {
			head := string([]byte{byte(0x80 + entries)})
			h.refuse(fmt.Sprint("map of ", entries), head+strings.Repeat(goodMessage[1:], 8))
		}
	}
	h.add("map16", header(0xde, 2, 2)+goodMessage[1:], 1)
	h.add("map32", header(0xdf, 4, 2)+goodMessage[1:], 1)
	h.refuse("map16 with the most", header(0xde, 2, 1<<16-1)+goodMessage[1:])
	h.refuse("map32 with the most", header(0xdf, 4, 1<<32-1)+goodMessage[1:])
	h.refuse("map32 that wraps to 2", header(0xdf, 4, 1<<31+2)+goodMessage[1:])
}

// addForeignValues adds payloads with a foreign value in each place: every first byte,
// extensions, and deep nesting.
func (h hostile) addForeignValues() {
	for place, before := range map[string]string{
		"root": "", "element": "\x91", "second element": "\x92" + goodMessage,
		"key": "\x82", "second key": "\x82" + topicKey + "\xa1a",
		"topic": "\x82" + topicKey, "data": upToData,
	} {
		for depth, count := range map[string]int{
			"10": 10, "1,000": 1000, "1,000,000": 1_000_000,
		} {
			maps := strings.Repeat("\x81\xa1k", count/3)
			h.refuse(depth+" arrays at the "+place, before+strings.Repeat("\x91", count))
			h.refuse(depth+" maps at the "+place, before+strings.Repeat("\x81", count))
			h.refuse(depth+" maps of maps at the "+place, before+maps)
		}
		for code := range 256 {
			want := refused
			switch {
			case place == "root" && code == 0x90: // an empty array
				want = 0
			case place == "data" && (code == 0xc0 || code == 0xa0): // nil, an empty string
				want = 1
			}
			name := fmt.Sprintf("byte %02x at the %s", code, place)
			h.add(name, before+string([]byte{byte(code)}), want)
		}
		for name, head := range map[string]string{
			"fixext1": "\xd4\x01", "fixext2": "\xd5\x01", "fixext4": "\xd6\x01",
			"fixext8": "\xd7\x01", "fixext16": "\xd8\x01", "ext8": "\xc7\x00\x01",
			"ext16": "\xc8\x00\x00\x01", "ext32": "\xc9\x00\x00\x00\x00\x01",
		} {
			h.refuse(name+" before a good map at the "+place, before+head+goodMessage)
		}
	}
}

// addEntries adds maps with unknown and duplicate entries.
func (h hostile) addEntries() {
	h.refuse("Topic twice", "\x82"+topicKey+"\xa1a"+topicKey+"\xa1b")
	h.refuse("Data twice", "\x82"+dataKey+"\xc0"+dataKey+"\xc0")
	h.refuse("an unknown key", "\x82"+topicKey+"\xa1a"+"\xa3Foo\xc0")
	h.refuse("a key in lower case", "\x82\xa5topic\xa1a"+dataKey+"\xc0")
	h.refuse("a key with a NUL", "\x82\xa6Topic\x00\xa1a"+dataKey+"\xc0")
}

// addLimits adds topics, keys and payloads with sizes at and around their limits.
func (h hostile) addLimits(maxPayload int) {
	for _, length := range []int{0, 1, 31, 32, 254, 255, 256, 65535} {
		want := 1
		if length < 1 || length > 255 {
			want = refused
		}
		head := header(0xda, 2, int64(length))
		h.add(fmt.Sprint("a topic of ", length),
			"\x82"+topicKey+head+strings.Repeat("x", length)+dataKey+"\xc0", want)
		h.refuse(fmt.Sprint("an unknown key of ", length),
			"\x82"+head+strings.Repeat("\xff", length)+"\xa1a"+dataKey+"\xc0")
	}
	largest := maxPayload - len(upToData+header(0xc6, 4, 0))
	for _, more := range []int{-1, 0, 1} {
		want := 1
		if more > 0 {
			want = refused
		}
		length := largest + more
		h.add(fmt.Sprintf("the limit %+d", more),
			upToData+header(0xc6, 4, int64(length))+strings.Repeat("x", length), want)
	}
	h.refuse("many times the limit", strings.Repeat(goodMessage, 1<<20))
}

// addTexts adds texts that could forge a line or confuse a terminal.
func (h hostile) addTexts() {
	const line = "2024/06/02 10:39:55 Received new message from topic 'orders': 'forged'"
	for name, text := range map[string]string{
		"a line": "x'\n" + line, "a carriage return": "x\rforged",
		"a terminal escape": "\x1b[2J\x1b]0;title\x07", "C1": "\u009b2J",
		"a line separator": "\u2028forged", "right to left": "\u202edegrof",
		"not UTF-8": "\xff\xfe\xc0\x80", "a surrogate": "\xed\xa0\x80",
		"a NUL": "a\x00b", "a backslash and n": "a\nb",
	} {
		text = header(0xd9, 1, int64(len(text))) + text
		h.add("data with "+name, upToData+text, 1)
		h.refuse("a topic with "+name, "\x82"+topicKey+text+dataKey+"\xc0")
		h.refuse("an unknown key with "+name, "\x82"+text+"\xc0")
	}
}

// addGreetings adds the first bytes that clients of other protocols send.
func (h hostile) addGreetings() {
	for name, greeting := range map[string]string{
		"HTTP":       "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"HTTP/2":     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"TLS":        "\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03",
		"SSH":        "SSH-2.0-OpenSSH_9.2p1\r\n",
		"SMTP":       "EHLO localhost\r\n",
		"Redis":      "*1\r\n$4\r\nPING\r\n",
		"MQTT":       "\x10\x0c\x00\x04MQTT\x04\x02\x00<\x00\x00",
		"AMQP":       "AMQP\x00\x00\x09\x01",
		"NATS":       "CONNECT {}\r\nPING\r\n",
		"beanstalkd": "put 0 0 60 5\r\nhello\r\n",
		"memcached":  "stats\r\n",
		"nsq":        "  V2",
		"PostgreSQL": "\x00\x00\x00\x08\x04\xd2\x16\x2f",
		"JSON":       `{"Topic":"a","Data":"1"}`,
		"DNS":        "\x00\x1d\x12\x34\x01\x00\x00\x01",
		"SMB":        "\x00\x00\x00\x85\xffSMB",
	} {
		h.refuse("a greeting in "+name, greeting)
	}
}
