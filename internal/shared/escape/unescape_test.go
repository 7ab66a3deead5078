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

// Text that Append can't have written is refused. The error names the first wrong byte.
func TestUnescapeRefuses(t *testing.T) {
	const control, notUTF8, noEscape = "is a control character", "is not UTF-8", "starts no escape"
	for escaped, want := range map[string]string{
		"\n": control, "\x00": control, "\x7f": control, "\t": control,
		"\xff": notUTF8, "\xe6\xb3": notUTF8, "\xed\xa0\x80": notUTF8, "\x80": notUTF8,
		`\`: noEscape, `\q`: noEscape, `\'`: noEscape, `\x`: noEscape, `\x1`: noEscape,
		`\xg0`: noEscape, `\01`: noEscape, `\400`: noEscape, `\8`: noEscape, `\u123`: noEscape,
		`\ud800`: noEscape, `\U00110000`: noEscape, `\U0000000`: noEscape, "\\\n": noEscape,
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

// FuzzUnescape checks that Unescape returns each text from its escaped form. Of any bytes
// that Unescape accepts, it checks that the text is not longer than they are, can be
// escaped and unescaped, and can be written over them.
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
		if err != nil {
			return
		}
		again, err := escape.Unescape(nil, escape.Append(nil, got))
		if err != nil || !bytes.Equal(again, got) {
			t.Errorf("%q became %q, and that %q, %v", text, got, again, err)
		}
		if len(got) > len(text) {
			t.Errorf("%q grew to %q", text, got)
		}
		inPlace := bytes.Clone(text)
		again, err = escape.Unescape(inPlace[:0], inPlace)
		if err != nil || !bytes.Equal(again, got) {
			t.Errorf("in its place, %q became %q, want %q, %v", text, again, got, err)
		}
	})
}

// BenchmarkUnescape unescapes plain text of 128 bytes (plain), and the escapes of as many
// bytes (control). Its floor is that of BenchmarkAppend.
func BenchmarkUnescape(b *testing.B) {
	for name, text := range texts(128) {
		b.Run(name, func(b *testing.B) {
			line := escape.Append(nil, text)
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				text, _ = escape.Unescape(text[:0], line)
			}
		})
	}
}
