package consumer

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"mbus/internal/shared/follow"
)

// truncated is a source whose file is emptied after each read.
type truncated struct {
	source
	path string
}

func (s truncated) Next() ([]byte, error) {
	line, err := s.source.Next()
	if line == nil {
		return nil, io.EOF
	}
	os.Truncate(s.path, 0)
	return line, err
}

// Without a state, the first line since the time of -from is delivered even if its file was emptied
// after it was read: no position needs the file.
func TestSinceTruncated(t *testing.T) {
	directory := t.TempDir()
	log := filepath.Join(directory, "log")
	const text = "2024/06/02 10:39:54 creating topic t\n" +
		"2024/06/02 10:39:55 Received new message from topic 't': 'x'\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := os.Create(filepath.Join(directory, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	c, err := New(&Config{Log: log, From: "2024/06/02 10:39:55", Output: output})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	c.since, c.log = stampOf(c.config.From), follow.New(log, func(line string) { t.Error(line) })
	c.source = truncated{c.log, log}
	if err := c.run(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.save(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(output.Name()); err != nil || string(got) != "x\n" {
		t.Errorf("it wrote %q, %v", got, err)
	}
}
