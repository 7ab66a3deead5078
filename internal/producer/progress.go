package producer

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

const (
	// Progress is shown from quietTime on, and anew every showInterval.
	quietTime    = time.Second
	showInterval = 200 * time.Millisecond

	// eraseTime is how long a terminal that takes nothing may keep its stopping waiting.
	eraseTime = 200 * time.Millisecond
)

// Progress counts what SendLines has had accepted, and can show it on a terminal
// meanwhile. It is safe for concurrent use.
type Progress struct {
	begin    time.Time
	size     int64 // of the input that is ahead, in bytes; 0: unknown
	messages atomic.Int64
	bytes    atomic.Int64
}

// NewProgress returns a Progress that starts now, for messages from input.
func NewProgress(input *os.File) *Progress {
	progress := &Progress{begin: time.Now()}
	info, err := input.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return progress
	}
	if at, err := input.Seek(0, io.SeekCurrent); err == nil {
		progress.size = info.Size() - at
	}
	return progress
}

// Add counts messages that were accepted, and the bytes of input that they were.
func (progress *Progress) Add(messages, bytes int) {
	progress.messages.Add(int64(messages))
	progress.bytes.Add(int64(bytes))
}

// String tells how many messages were accepted in what time.
func (progress *Progress) String() string {
	count, plural := progress.messages.Load(), "s"
	if count == 1 {
		plural = ""
	}
	return fmt.Sprintf("%d message%s accepted in %s", count, plural, time.Since(progress.begin).Round(time.Millisecond))
}

// Show writes to terminal, in place, how many messages were accepted, at what rate,
// and how much of a regular file they are: from the first second on until stop is
// called, which leaves nothing of it.
func (progress *Progress) Show(terminal io.Writer) (stop func()) {
	stopping, erased := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(erased)
		progress.show(terminal, stopping)
	}()
	return func() {
		close(stopping)
		select {
		case <-erased:
		case <-time.After(eraseTime):
		}
	}
}

// show is what Show does meanwhile.
func (progress *Progress) show(terminal io.Writer, stopping <-chan struct{}) {
	wait, width := quietTime, 0
	for {
		select {
		case <-time.After(wait):
		case <-stopping:
			if width > 0 {
				fmt.Fprintf(terminal, "\r%*s\r", width, "")
			}
			return
		}
		messages := progress.messages.Load()
		line := fmt.Sprintf("%d messages, %.0f/s", messages, float64(messages)/time.Since(progress.begin).Seconds())
		if progress.size > 0 {
			line += fmt.Sprintf(", %d %%", min(100*progress.bytes.Load()/progress.size, 100))
		}
		fmt.Fprintf(terminal, "\r%-*s", width, line)
		wait, width = showInterval, max(width, len(line))
	}
}
