package decoder_test

import (
	"fmt"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// BenchmarkDecode decodes payloads for one topic, and for a topic a message.
func BenchmarkDecode(b *testing.B) {
	for _, topics := range []int{1, 1000} {
		for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
			for _, batch := range []int{1, 10, 1000} {
				if size*batch > 16<<20 {
					continue // more than a payload can have
				}
				messages := make([]*apiv1.Message, batch)
				for i := range messages {
					messages[i] = &apiv1.Message{Topic: fmt.Sprint("topic", i%topics), Data: make([]byte, size)}
				}
				payload, err := encoder.NewMsgpackEncoder().Encode(messages)
				if err != nil {
					b.Fatal(err)
				}
				b.Run(fmt.Sprintf("topics=%d/size=%d/batch=%d", topics, size, batch), func(b *testing.B) {
					decoder := decoder.NewMsgpackDecoder(1 << 20)
					b.ReportAllocs()
					b.SetBytes(int64(len(payload)))
					for b.Loop() {
						if _, err := decoder.Decode(payload); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
