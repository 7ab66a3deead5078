package logline_test

import (
	"bytes"
	"hash/crc32"
	"strings"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/logline"
)

const stamp = "2024/06/02 10:39:55"

// line returns a message's line.
func line(topic, data string) string {
	message := &apiv1.Message{Topic: topic, Data: []byte(data)}
	return string(logline.Append([]byte(stamp+" "), message))
}

// What Append formats, Parse returns. The checksum is that of the line as it is in the log.
func TestParse(t *testing.T) {
	all, one := logline.Parser{Sums: true}, logline.Parser{Topics: []string{"none", "a'b"}}
	for _, topic := range []string{"a", "a'b", "a'b", `\`, "żółw", "a"} {
		zeros := strings.Repeat("\x00", 9999)
		for _, data := range []string{"", "x", "it's \\ \n\x00\xff ': '", zeros} {
			text := line(topic, data)
			message, err := all.Parse([]byte(text))
			if err != nil || message == nil {
				t.Fatalf("%.99q: %v, %v", text, message, err)
			}
			want := crc32.ChecksumIEEE([]byte(text[:len(text)-1]))
			isSame := message.Topic == topic && string(message.Data) == data &&
				string(message.Stamp) == stamp && message.Checksum == want
			if !isSame {
				t.Errorf("%.99q: %+v, want the checksum %08x", text, message, want)
			}
			message, err = one.Parse([]byte(text))
			if err != nil || (message != nil) != (topic == "a'b") {
				t.Errorf("%.99q: %v, %v", text, message, err)
			}
			if message != nil && (message.Topic != topic || message.Checksum != 0) {
				t.Errorf("%.99q: %+v", text, message)
			}
		}
	}
}

// A wrong line is an error, also between two lines with its topic. What is not wanted is not
// unescaped, and so not an error.
func TestParseDamaged(t *testing.T) {
	all, none := logline.Parser{}, logline.Parser{Topics: []string{"no"}}
	good := line("a", "x")
	const zeros = "it has zeros, as a power loss leaves them"
	head := stamp + " Received new message from topic '"
	for text, want := range map[string]struct{ why, unwanted string }{
		good[:len(good)-1]:               {"it is torn", "it is torn"},
		stamp + " Rec\n":                 {"it is torn", "it is torn"},
		"2024/06\n":                      {"it is torn", "it is torn"},
		strings.Repeat("\x00", 9) + "\n": {zeros, zeros},
		"\x00" + good[1:]:                {zeros, zeros},
		head + "a': '\x00'\n":            {"in its data, byte 1 is a control character", zeros},
		stamp + " Broker: \x00\x00\n":    {zeros, zeros},
		head + "a': '\\q'\n":             {"in its data, byte 1 starts no escape", ""},
		head + "\\q': 'x'\n":             {"in its topic, byte 1 starts no escape", ""},
		head + "a\\n': 'x'\n":            {"its topic is not printable", ""},
	} {
		for parser, want := range map[*logline.Parser]string{&all: want.why, &none: want.unwanted} {
			for _, text := range []string{good, text, good} {
				_, err := parser.Parse([]byte(text))
				isWrong := err == nil || !strings.HasPrefix(err.Error(), want+": \"") && want != ""
				if text == good && err != nil || text != good && isWrong != (want == "") {
					t.Errorf("%q: %v, want %q", text, err, want)
				}
			}
		}
	}
}

// The broker's other lines are nothing.
func TestParseOther(t *testing.T) {
	var parser logline.Parser
	for _, text := range []string{stamp + " creating topic x\n", "\n", "goroutine 1\n"} {
		if message, err := parser.Parse([]byte(text)); message != nil || err != nil {
			t.Errorf("%q: %v, %v", text, message, err)
		}
	}
}

func TestStampOf(t *testing.T) {
	for text, want := range map[string]string{
		line("a", "x"): stamp, stamp + " \n": stamp,
		stamp + "\n": "", "\n": "", "x" + stamp + " ": "",
	} {
		if got := logline.StampOf([]byte(text)); !bytes.Equal(got, []byte(want)) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
