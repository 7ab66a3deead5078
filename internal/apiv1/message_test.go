package apiv1_test

import (
	"bytes"
	"encoding/hex"
	"go/parser"
	"go/token"
	"regexp"
	"strings"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// exampleBytes matches the lines of one example in the package comment.
var exampleBytes = regexp.MustCompile(`(?m)(^\t[ 0-9a-f]+\n)+`)

// examples returns the byte sequences in the package comment.
func examples(t *testing.T) [][]byte {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "message.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var found [][]byte
	for _, block := range exampleBytes.FindAllString(file.Doc.Text(), -1) {
		decoded, err := hex.DecodeString(strings.Join(strings.Fields(block), ""))
		if err != nil {
			t.Fatalf("%q: %v", block, err)
		}
		found = append(found, decoded)
	}
	return found
}

// The examples in the protocol's specification decode to the values that it gives, and these
// values are encoded as the examples.
func TestExamples(t *testing.T) {
	found := examples(t)
	payloads := [][]*apiv1.Message{
		{{Topic: "orders", Data: []byte("hi")}},
		{{Topic: "a", Data: []byte("1")}, {Topic: "a", Data: []byte("2")}},
	}
	replies := []apiv1.Reply{{Accepted: 2}, {Error: "queue is full"}}
	if len(found) != len(payloads)+len(replies) {
		t.Fatalf("%d examples in the package comment, want %d",
			len(found), len(payloads)+len(replies))
	}
	for i, want := range payloads {
		got, err := decoder.NewMsgpackDecoder(1 << 20).Decode(found[i])
		if err != nil || len(got) != len(want) {
			t.Fatalf("example %d: got %d messages, error %v", i, len(got), err)
		}
		for j := range want {
			if got[j].Topic != want[j].Topic || !bytes.Equal(got[j].Data, want[j].Data) {
				t.Errorf("example %d: message %d is %q, want %q", i, j, got[j], want[j])
			}
		}
		encoded, err := encoder.NewMsgpackEncoder().Encode(want)
		if err != nil || !bytes.Equal(encoded, found[i]) {
			t.Errorf("example %d: encoded as % x, error %v", i, encoded, err)
		}
	}
	for i, want := range replies {
		example := found[len(payloads)+i]
		got, err := decoder.DecodeReply(example)
		if err != nil || *got != want {
			t.Errorf("reply %d: got %+v, error %v", i, got, err)
		}
		encoded, err := encoder.NewMsgpackEncoder().EncodeReply(&want)
		if err != nil || !bytes.Equal(encoded, example) {
			t.Errorf("reply %d: encoded as % x, error %v", i, encoded, err)
		}
	}
}

// Splittable and Retryable hold for the refusals of which the protocol's specification says
// so.
func TestRefusals(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "message.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(file.Doc.Text(), "# Refusals\n")
	lists := regexp.MustCompile(`(?m)(^\t.+\n)+`).FindAllString(section, -1)
	wanted := []struct{ splittable, retryable bool }{{false, false}, {true, false}, {false, true}}
	if len(lists) != len(wanted) {
		t.Fatalf("%d lists in the package comment, want %d", len(lists), len(wanted))
	}
	for i, want := range wanted {
		for reason := range strings.Lines(lists[i]) {
			reason = strings.Trim(reason, "\t\n")
			splittable := want.splittable || strings.HasPrefix(reason, "the payload did not end")
			if apiv1.Splittable(reason) != splittable || apiv1.Retryable(reason) != want.retryable {
				t.Errorf("%q: splittable %v, retryable %v", reason,
					apiv1.Splittable(reason), apiv1.Retryable(reason))
			}
		}
	}
}

func TestCheckTopic(t *testing.T) {
	long := strings.Repeat("x", apiv1.MaxTopic)
	for name, want := range map[string]string{
		"a":               "",
		"orders.eu/new 1": "",
		"it's \"quoted\"": "",
		"żółw 注文 🐢":       "",
		"\uFFFD":          "", // the replacement character itself is printable
		long:              "",
		"":                "is 0 bytes long, must be 1 to 255",
		long + "x":        "is 256 bytes long, must be 1 to 255",
		"a\n":             "is not printable UTF-8 at byte 2",
		"\x1b[31m":        "is not printable UTF-8 at byte 1",
		"a\x7f":           "is not printable UTF-8 at byte 2",
		"ab\xff":          "is not printable UTF-8 at byte 3",
		"\xed\xa0\x80":    "is not printable UTF-8 at byte 1", // a surrogate
		"a\u00a0b":        "is not printable UTF-8 at byte 2", // a space that is not ASCII
		"a\u202eb":        "is not printable UTF-8 at byte 2", // right-to-left override
	} {
		err := apiv1.CheckTopic([]byte(name))
		if got := ""; err != nil {
			got = err.Error()
			if got != want {
				t.Errorf("CheckTopic(%q) = %q, want %q", name, got, want)
			}
		} else if want != "" {
			t.Errorf("CheckTopic(%q) = nil, want %q", name, want)
		}
	}
}
