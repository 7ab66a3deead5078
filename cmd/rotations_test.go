//go:build unix

package cmd_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// rotations is a log that the test rotates. The rotated files are FILE.1, FILE.2 and so on, with
// the oldest first.
type rotations struct {
	path  string
	count int // rotated files
}

// rotate renames the log, if it exists.
func (r *rotations) rotate(t *testing.T) {
	t.Helper()
	switch err := os.Rename(r.path, fmt.Sprintf("%s.%d", r.path, r.count+1)); {
	case err == nil:
		r.count++
	case !errors.Is(err, fs.ErrNotExist):
		t.Error(err)
	}
}

// awaitFile waits until the broker has created the log again.
func (r *rotations) awaitFile(t *testing.T) {
	t.Helper()
	bustest.Until(t, "a new file", func() bool {
		_, err := os.Stat(r.path)
		return err == nil
	})
}

// files returns the texts of the files that exist, the oldest first and the log last.
func (r *rotations) files() (texts []string) {
	paths := []string{r.path}
	for i := r.count; i > 0; i-- {
		paths = append([]string{fmt.Sprintf("%s.%d", r.path, i)}, paths...)
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}

// joinFiles returns the joined texts of files. It fails the test unless each ends with a whole
// line.
func joinFiles(t *testing.T, texts []string) string {
	t.Helper()
	for i, text := range texts {
		if text != "" && !strings.HasSuffix(text, "\n") {
			t.Errorf("file %d of %d ends with %q, want a whole line",
				i+1, len(texts), text[max(0, len(text)-100):])
		}
	}
	return strings.Join(texts, "")
}
