package producer

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

const (
	// Progress is first shown after quietTime, then every showInterval.
	quietTime    = time.Second
	showInterval = 200 * time.Millisecond

	// eraseTime is how long stop waits for a terminal that blocks.
	eraseTime = 200 * time.Millisecond
)

// Progress counts the messages of SendLines that the broker has accepted, and can show the
// count on a terminal. It is safe for concurrent use.
type Progress struct {
	begin    time.Time
	size     int64 // of the unread input, in bytes; 0: unknown
	messages atomic.Int64
	bytes    atomic.Int64
}

// NewProgress returns a Progress of sending input. Its time starts now.
func NewProgress(input *os.File) *Progress {
	p := &Progress{begin: time.Now()}
	info, err := input.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return p
	}
	if at, err := input.Seek(0, io.SeekCurrent); err == nil {
		p.size = info.Size() - at
	}
	return p
}

// Add adds a number of accepted messages, and the number of their bytes of input.
func (p *Progress) Add(messages, bytes int) {
	p.messages.Add(int64(messages))
	p.bytes.Add(int64(bytes))
}

// String returns a summary: how many messages were accepted, in what time.
func (p *Progress) String() string {
	count, plural := p.messages.Load(), "s"
	if count == 1 {
		plural = ""
	}
	took := time.Since(p.begin).Round(time.Millisecond)
	return fmt.Sprintf("%d message%s accepted in %s", count, plural, took)
}

// Show keeps a line on terminal up to date: how many messages were accepted, at what rate
// and, if the input is a regular file, what percentage of it. The line appears after a second.
// Calling stop erases the line. stop waits at most 200 ms for the terminal.
func (p *Progress) Show(terminal io.Writer) (stop func()) {
	stopping, erased := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(erased)
		p.show(terminal, stopping)
	}()
	return func() {
		close(stopping)
		select {
		case <-erased:
		case <-time.After(eraseTime):
		}
	}
}

// show updates the line until stopping is closed. Then it erases the line.
func (p *Progress) show(terminal io.Writer, stopping <-chan struct{}) {
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
		messages := p.messages.Load()
		rate := float64(messages) / time.Since(p.begin).Seconds()
		line := fmt.Sprintf("%d messages, %.0f/s", messages, rate)
		if p.size > 0 {
			line += fmt.Sprintf(", %d %%", min(100*p.bytes.Load()/p.size, 100))
		}
		fmt.Fprintf(terminal, "\r%-*s", width, line)
		wait, width = showInterval, max(width, len(line))
	}
}
