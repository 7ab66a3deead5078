package producer

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/shared/encoder"
)

// regular returns a regular file of size bytes, open at offset.
func regular(t *testing.T, size, offset int) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "input"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err = file.Write(make([]byte, size)); err == nil {
		_, err = file.Seek(int64(offset), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Progress is shown after a second, and erased at the end.
func TestProgress(t *testing.T) {
	file := regular(t, 5000, 1000)
	synctest.Test(t, func(t *testing.T) {
		var terminal bytes.Buffer
		progress := NewProgress(file)
		stop := progress.Show(&terminal)
		progress.Add(30, 1000)
		time.Sleep(999 * time.Millisecond)
		stop()
		if terminal.Len() > 0 {
			t.Errorf("before the first second it shows %q", &terminal)
		}

		progress = NewProgress(file)
		stop = progress.Show(&terminal)
		progress.Add(30, 1000)
		time.Sleep(time.Second)
		synctest.Wait()
		progress.Add(20, 4000) // more than the file was at first
		time.Sleep(300 * time.Millisecond)
		stop()
		const first, second = "30 messages, 30/s, 25 %", "50 messages, 42/s, 100 %"
		want := "\r" + first + "\r" + second + "\r" + strings.Repeat(" ", len(second)) + "\r"
		if terminal.String() != want {
			t.Errorf("it shows %q, want %q", &terminal, want)
		}
		if got, want := progress.String(), "50 messages accepted in 1.3s"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A shorter line hides a longer one. A pipe has no percentage. An input that ends within
// the first second shows nothing.
func TestProgressOfAPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	synctest.Test(t, func(t *testing.T) {
		var terminal bytes.Buffer
		progress := NewProgress(reader)
		progress.Show(&terminal)()
		got := terminal.String() + progress.String()
		if want := "0 messages accepted in 0s"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		progress.Add(1, 10)
		if got, want := progress.String(), "1 message accepted in 0s"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		progress.Add(11, 10)
		stop := progress.Show(&terminal)
		time.Sleep(1400 * time.Millisecond)
		stop()
		const first, second = "12 messages, 12/s", "12 messages, 10/s"
		const third = "12 messages, 9/s "
		want := "\r" + first + "\r" + second + "\r" + third +
			"\r" + strings.Repeat(" ", len(first)) + "\r"
		if got := terminal.String(); got != want {
			t.Errorf("it shows %q, want %q", got, want)
		}
	})
}

// messages returns count messages.
func messages(count int) []*apiv1.Message {
	all := make([]*apiv1.Message, count)
	for i := range all {
		all[i] = &apiv1.Message{Topic: "t"}
	}
	return all
}

// A batch is sent 100 ms after its first message. It is sent at once if it is full or the last.
// If the producer is busy at that time, the batch is sent as soon as the producer is ready.
func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pieces, batches := make(chan []*apiv1.Message), make(chan []*apiv1.Message)
		go func() {
			defer close(batches)
			collect(t.Context(), pieces, batches)
		}()
		begin := time.Now()
		expect := func(count int, after time.Duration) {
			t.Helper()
			batch := <-batches
			if took := time.Since(begin); len(batch) != count || took != after {
				t.Errorf("%d messages after %s, want %d after %s", len(batch), took, count, after)
			}
			begin = time.Now()
		}
		pieces <- messages(1)
		time.Sleep(99 * time.Millisecond)
		pieces <- messages(2)
		expect(3, 100*time.Millisecond)

		full := fullPayload/encoder.MessageSize(&apiv1.Message{Topic: "t"}) + 1
		pieces <- messages(full)
		expect(full, 0)
		time.Sleep(150 * time.Millisecond) // the next batch waits for 100 ms from its own start
		begin = time.Now()
		pieces <- messages(1)
		expect(1, 100*time.Millisecond)

		pieces <- messages(1) // the producer is busy
		time.Sleep(150 * time.Millisecond)
		pieces <- messages(1)
		expect(2, 150*time.Millisecond)

		pieces <- messages(1)
		close(pieces)
		expect(1, 0)
		expect(0, 0)
	})
}
