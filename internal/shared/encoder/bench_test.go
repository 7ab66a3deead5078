package encoder_test

import (
	"fmt"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/encoder"
)

// BenchmarkEncode encodes one payload again and again: batch messages of size bytes of data.
// It has no floor. To run it:
//
//	go test -run '^$' -bench Encode ./internal/shared/encoder
func BenchmarkEncode(b *testing.B) {
	for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
		for _, batch := range []int{1, 10, 1000} {
			messages := make([]*apiv1.Message, batch)
			for i := range messages {
				messages[i] = &apiv1.Message{Topic: "topic", Data: make([]byte, size)}
			}
			b.Run(fmt.Sprintf("size=%d/batch=%d", size, batch), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size * batch))
				for b.Loop() {
					if _, err := encoder.NewMsgpackEncoder().Encode(messages); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
