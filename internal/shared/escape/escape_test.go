package escape_test

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"mbus/internal/shared/escape"
)

func TestAppend(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"look ma! a new order":    "look ma! a new order",
		`say "hi", it's 5`:        `say "hi", it's 5`,
		"żółw 注文 🐢 \uFFFD":        "żółw 注文 🐢 \uFFFD",
		`back\slash`:              `back\\slash`,
		"\a\b\f\n\r\t\v":          `\a\b\f\n\r\t\v`,
		"\x00\x1b[31m\x7f":        `\x00\x1b[31m\x7f`,
		"\xff\xc0\x80":            `\xff\xc0\x80`,
		"\xe6\xb3":                `\xe6\xb3`,
		"\u00a0\u202e\u2028":      `\u00a0\u202e\u2028`,
		"\U000e0001":              `\U000e0001`,
		"x\n2024/06/02 forged 'y": `x\n2024/06/02 forged 'y`,
	} {
		if got := string(escape.Append([]byte("> "), []byte(text))); got != "> "+want {
			t.Errorf("Append(%q) gives %s, want > %s", text, got, want)
		}
	}
	if got := string(escape.AppendName(nil, []byte(`it's \ "x"`))); got != `it\x27s \\ "x"` {
		t.Errorf("AppendName gives %s", got)
	}
}

// Append looks at eight bytes at a time. It finds a byte to escape at each place among them.
func TestEachByteAtEachPlace(t *testing.T) {
	for b := range 128 {
		escaped := escape.Append(nil, []byte{byte(b)})
		for before := range 20 {
			text := append(bytes.Repeat([]byte("~"), before), byte(b))
			text = append(text, " }abc~]["[before%8:]...)
			want := append(bytes.Repeat([]byte("~"), before), escaped...)
			want = append(want, " }abc~]["[before%8:]...)
			if got := escape.Append(nil, text); !bytes.Equal(got, want) {
				t.Errorf("%q became %q, want %q", text, got, want)
			}
		}
	}
}

// unescape returns the text of line, which must be a Go string literal without its quotes.
func unescape(t *testing.T, line []byte) []byte {
	t.Helper()
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(string(line), `"`, `\"`) + `"`)
	if err != nil {
		t.Fatalf("%q is not a string literal: %v", line, err)
	}
	return []byte(text)
}

// FuzzAppend checks that the escaped form of any bytes is printable and has the same text as
// a Go string literal.
func FuzzAppend(f *testing.F) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	f.Add(every)
	f.Add([]byte(`"\'\x27` + "'\\\n\u0085\u2028\xf0\x9f\x90"))
	f.Fuzz(func(t *testing.T, text []byte) {
		line, name := escape.Append(nil, text), escape.AppendName(nil, text)
		if got := unescape(t, line); !bytes.Equal(got, text) {
			t.Errorf("%q came back as %q", text, got)
		}
		if got := unescape(t, name); !bytes.Equal(got, text) {
			t.Errorf("name %q came back as %q", text, got)
		}
		if bytes.ContainsRune(name, '\'') {
			t.Errorf("name %q has an apostrophe in %q", text, name)
		}
		for _, character := range string(line) {
			if !strconv.IsPrint(character) {
				t.Errorf("%q is in the line of %q", character, text)
			}
		}
		if !utf8.Valid(line) {
			t.Errorf("the line of %q is not UTF-8", text)
		}
	})
}
