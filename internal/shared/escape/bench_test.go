package escape_test

import (
	"bytes"
	"fmt"
	"testing"

	"mbus/internal/shared/escape"
)

// BenchmarkAppend escapes plain text, and text of which each byte is escaped; the
// floor copies it.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
		line := make([]byte, 0, 4*size)
		for name, text := range map[string][]byte{"plain": bytes.Repeat([]byte("x"), size), "control": make([]byte, size)} {
			b.Run(fmt.Sprintf("%s/size=%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					line = escape.Append(line[:0], text)
				}
			})
		}
		b.Run(fmt.Sprintf("floor/size=%d", size), func(b *testing.B) {
			text := bytes.Repeat([]byte("x"), size)
			b.SetBytes(int64(size))
			for b.Loop() {
				line = append(line[:0], text...)
			}
		})
	}
}
