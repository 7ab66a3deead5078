package decoder_test

import (
	"fmt"
	"testing"

	"mbus/internal/apiv1"
	"mbus/internal/shared/decoder"
	"mbus/internal/shared/encoder"
)

// BenchmarkDecode decodes one payload again and again: batch messages of size bytes of data,
// either all on one topic, or each on one of 1,000 topics in turn. The decoder remembers the
// last topic, so the difference is the price of new topics.
//
// It has no floor of its own: the one of TestRatios in mbus/cmd reads a payload without
// decoding it. To run it:
//
//	go test -run '^$' -bench Decode ./internal/shared/decoder
func BenchmarkDecode(b *testing.B) {
	for _, topics := range []int{1, 1000} {
		for _, size := range []int{16, 128, 1 << 10, 64 << 10} {
			for _, batch := range []int{1, 10, 1000} {
				if size*batch > 16<<20 {
					continue // more than a payload can have
				}
				messages := make([]*apiv1.Message, batch)
				for i := range messages {
					name := fmt.Sprint("topic", i%topics)
					messages[i] = &apiv1.Message{Topic: name, Data: make([]byte, size)}
				}
				payload, err := encoder.NewMsgpackEncoder().Encode(messages)
				if err != nil {
					b.Fatal(err)
				}
				work := fmt.Sprintf("topics=%d/size=%d/batch=%d", topics, size, batch)
				b.Run(work, func(b *testing.B) {
					used := decoder.NewMsgpackDecoder(1 << 20)
					b.ReportAllocs()
					b.SetBytes(int64(len(payload)))
					for b.Loop() {
						if _, err := used.Decode(payload); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
