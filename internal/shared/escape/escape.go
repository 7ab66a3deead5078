// Package escape turns any bytes into printable text on one line, and such text back into
// the same bytes.
package escape

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf8"
)

const hex = "0123456789abcdef"

// plain is true for each byte that is never escaped: printable ASCII except the
// backslash and the apostrophe.
var plain = func() (table [256]bool) {
	for b := byte(' '); b <= '~'; b++ {
		table[b] = b != '\\' && b != '\''
	}
	return table
}()

// escapes has the escape of each ASCII character that is not plain.
var escapes = func() (table [utf8.RuneSelf]string) {
	for character := range table {
		quoted := strconv.QuoteRune(rune(character))
		table[character] = quoted[1 : len(quoted)-1]
	}
	return table
}()

// Append appends text to line and returns the longer line. Characters that
// strconv.IsPrint calls printable are not changed. All others, the backslash and
// bytes that are not UTF-8 are escaped as in a Go string literal
// (https://go.dev/ref/spec#String_literals). Unescape is its inverse.
func Append(line, text []byte) []byte {
	return appendEscaped(line, text, false)
}

// AppendName is Append, but escapes an apostrophe as \x27. It is for a name between
// apostrophes.
func AppendName(line, name []byte) []byte {
	return appendEscaped(line, name, true)
}

// MaxSize returns an upper bound, in bytes, of the size that text has when Append or AppendName has
// escaped it. It counts four bytes, as in \xff, for each byte that may have to be escaped.
func MaxSize(text []byte) int {
	size := len(text)
	for at := 0; at < len(text); {
		if plain[text[at]] {
			at += plainPrefix(text[at:])
			continue
		}
		size += len(`\xff`) - 1
		at++
	}
	return size
}

// special tests 8 bytes at once. If all of them are plain, the top bit of each byte of the result
// is zero. If one is not, at least one of these bits is set, but it may be that of a plain byte
// beside it. To find bytes less than n, it uses "Determine if a word has a byte less than n" of
// https://graphics.stanford.edu/~seander/bithacks.html. To find bytes equal to b, it finds those
// that are less than 1 after an exclusive or with b. The last two terms find those above ~.
func special(word uint64) uint64 {
	const ones = 0x0101010101010101
	backslash, apostrophe := word^'\\'*ones, word^'\''*ones
	return (word - ' '*ones) | (backslash - ones) | (apostrophe - ones) |
		word | (word + (0x80-0x7f)*ones)
}

// plainPrefix returns how many of the first bytes of text are plain.
func plainPrefix(text []byte) int {
	const tops = 0x8080808080808080
	at := 0
	for at+32 <= len(text) {
		part := text[at : at+32]
		found := special(binary.LittleEndian.Uint64(part[:8])) |
			special(binary.LittleEndian.Uint64(part[8:16])) |
			special(binary.LittleEndian.Uint64(part[16:24])) |
			special(binary.LittleEndian.Uint64(part[24:32]))
		if found&tops != 0 {
			break
		}
		at += 32
	}
	for at+8 <= len(text) && special(binary.LittleEndian.Uint64(text[at:]))&tops == 0 {
		at += 8
	}
	for at < len(text) && plain[text[at]] {
		at++
	}
	return at
}

// Unescape appends to text the bytes that Append or AppendName escaped, and returns the
// longer text. It accepts every escape of a Go string literal. It does not change a
// character outside ASCII, printable or not: versions of Go differ about which are.
//
// The error names the first wrong byte, counted from 1: a control character, a byte that is
// not UTF-8, or the start of an unknown or cut escape. The bytes before it were appended.
//
// A text is never longer than its escaped form, so Unescape can overwrite its input:
// Unescape(escaped[:0], escaped).
func Unescape(text, escaped []byte) ([]byte, error) {
	for at := 0; at < len(escaped); {
		if plain[escaped[at]] {
			start := at
			at += plainPrefix(escaped[at:])
			text = append(text, escaped[start:at]...)
			continue
		}
		size := 1
		switch character := escaped[at]; {
		case character == '\\':
			const longest = len(`\U0010ffff`)
			quoted := string(escaped[at:min(at+longest, len(escaped))])
			value, isRune, rest, err := strconv.UnquoteChar(quoted, '"')
			if err != nil {
				return text, fmt.Errorf("byte %d starts no escape", at+1)
			}
			if isRune {
				text = utf8.AppendRune(text, value)
			} else {
				text = append(text, byte(value))
			}
			size = len(quoted) - len(rest)
		case character == '\'':
			text = append(text, '\'')
		case character < utf8.RuneSelf:
			return text, fmt.Errorf("byte %d is a control character", at+1)
		default:
			if _, size = utf8.DecodeRune(escaped[at:]); size == 1 {
				return text, fmt.Errorf("byte %d is not UTF-8", at+1)
			}
			text = append(text, escaped[at:at+size]...)
		}
		at += size
	}
	return text, nil
}

// appendEscaped is AppendName if apostrophe is true, otherwise Append.
func appendEscaped(line, text []byte, apostrophe bool) []byte {
	for at := 0; at < len(text); {
		if plain[text[at]] {
			start := at
			at += plainPrefix(text[at:])
			line = append(line, text[start:at]...)
			continue
		}
		character, size := rune(text[at]), 1
		if character >= utf8.RuneSelf {
			character, size = utf8.DecodeRune(text[at:])
		}
		switch {
		case character == '\'' && !apostrophe:
			line = append(line, '\'')
		case character == '\'', character == utf8.RuneError && size == 1:
			line = append(line, '\\', 'x', hex[text[at]>>4], hex[text[at]&0xf])
		case character < utf8.RuneSelf:
			line = append(line, escapes[character]...)
		case strconv.IsPrint(character):
			line = append(line, text[at:at+size]...)
		default:
			// A rune literal escapes such a character as a string literal does.
			quoted := strconv.AppendQuoteRune(line, character)
			line = append(line, quoted[len(line)+1:len(quoted)-1]...)
		}
		at += size
	}
	return line
}
