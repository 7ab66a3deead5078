package escape_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"mbus/internal/shared/escape"
)

func TestUnescape(t *testing.T) {
	for escaped, want := range map[string]string{
		"":                                   "",
		`say "hi", it's 5`:                   `say "hi", it's 5`,
		`\a\b\f\n\r\t\v\\\"`:                 "\a\b\f\n\r\t\v\\\"",
		`\x00\xff\x7F\x27`:                   "\x00\xff\x7f'",
		`\000\377\101`:                       "\x00\xffA",
		`\u0085\u2028\uFFFD`:                 "\u0085\u2028\uFFFD",
		`\U000e0001\U0010ffff`:               "\U000e0001\U0010ffff",
		"żółw 注文 🐢 \uFFFD":                   "żółw 注文 🐢 \uFFFD",
		"\u00a0\u0085\u202e\U000e0001\ufdd0": "\u00a0\u0085\u202e\U000e0001\ufdd0", // not printable
	} {
		got, err := escape.Unescape([]byte("> "), []byte(escaped))
		if err != nil || string(got) != "> "+want {
			t.Errorf("Unescape(%s) gives %q, %v, want > %q", escaped, got, err, want)
		}
	}
}

// What Append can't have written is an error that names its place.
func TestUnescapeRefuses(t *testing.T) {
	for escaped, want := range map[string]string{
		"\n": "is a control character", "\x00": "is a control character", "\x7f": "is a control character",
		"\t": "is a control character", "\xff": "is not UTF-8", "\xe6\xb3": "is not UTF-8",
		"\xed\xa0\x80": "is not UTF-8", "\x80": "is not UTF-8",
		`\`: "starts no escape", `\q`: "starts no escape", `\'`: "starts no escape", `\x`: "starts no escape",
		`\x1`: "starts no escape", `\xg0`: "starts no escape", `\01`: "starts no escape", `\400`: "starts no escape",
		`\8`: "starts no escape", `\u123`: "starts no escape", `\ud800`: "starts no escape",
		`\U00110000`: "starts no escape", `\U0000000`: "starts no escape", "\\\n": "starts no escape",
	} {
		for before := range 20 {
			start := strings.Repeat("~", before)
			want := fmt.Sprintf("byte %d %s", before+1, want)
			got, err := escape.Unescape(nil, []byte(start+escaped))
			if err == nil || err.Error() != want || string(got) != start {
				t.Errorf("Unescape(%q) gives %q, %v, want %s", start+escaped, got, err, want)
			}
		}
	}
}

// FuzzUnescape checks that text comes back from its escaped form, and that
// Unescape takes or refuses what any bytes are as the literal that they are in Go.
func FuzzUnescape(f *testing.F) {
	f.Add([]byte(`"\'\x27` + "'\\\n\u0085\u2028\xf0\x9f\x90"))
	f.Add([]byte(`\u00e9\U0001f422\377\q`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, line := range [][]byte{escape.Append(nil, text), escape.AppendName(nil, text)} {
			if got, err := escape.Unescape(nil, line); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%q came back from %q as %q, %v", text, line, got, err)
			}
		}
		got, err := escape.Unescape(nil, text)
		if err == nil {
			if again, err := escape.Unescape(nil, escape.Append(nil, got)); err != nil || !bytes.Equal(again, got) {
				t.Errorf("%q became %q, and that %q, %v", text, got, again, err)
			}
			if len(got) > len(text) {
				t.Errorf("%q grew to %q", text, got)
			}
			inPlace := bytes.Clone(text)
			if again, err := escape.Unescape(inPlace[:0], inPlace); err != nil || !bytes.Equal(again, got) {
				t.Errorf("in its place, %q became %q, want %q, %v", text, again, got, err)
			}
		}
	})
}

// BenchmarkUnescape takes plain text and text of escapes back; the floor of
// BenchmarkAppend is its floor too.
func BenchmarkUnescape(b *testing.B) {
	for name, text := range map[string][]byte{"plain": bytes.Repeat([]byte("x"), 128), "control": make([]byte, 128)} {
		b.Run(name, func(b *testing.B) {
			line := escape.Append(nil, text)
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				text, _ = escape.Unescape(text[:0], line)
			}
		})
	}
}
