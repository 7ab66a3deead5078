package escape_test

import (
	"bytes"
	"fmt"
	"testing"

	"mbus/internal/shared/escape"
)

// BenchmarkAppend escapes size bytes of plain text (plain), and of text of which every byte
// is escaped (control). The floor copies plain text. To run it:
//
//	go test -run '^$' -bench . ./internal/shared/escape
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
		line := make([]byte, 0, 4*size)
		for name, text := range texts(size) {
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

// texts returns texts of size bytes to escape, by name.
func texts(size int) map[string][]byte {
	return map[string][]byte{
		"plain": bytes.Repeat([]byte("x"), size), "control": make([]byte, size),
	}
}
