package consumer

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"mbus/internal/shared/follow"
)

// noOrigin is a source that can't tell where its lines come from.
type noOrigin struct{ source }

func (noOrigin) Origin() (follow.Origin, error) { return follow.Origin{}, errors.New("why") }

// A message whose id is not known is not delivered, and the position stays before it.
func TestOriginFails(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a state is not supported on Windows")
	}
	directory := t.TempDir()
	log, state := filepath.Join(directory, "log"), filepath.Join(directory, "state")
	const line = "2024/06/02 10:39:55 Received new message from topic 't': 'x'\n"
	if err := os.WriteFile(log, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &Config{Log: log, State: state, Format: JSON, ToEnd: true, Output: os.Stdout}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.source = noOrigin{c.source}
	if err := c.run(t.Context()); err == nil || err.Error() != "why" {
		t.Errorf("got %v", err)
	}
	if err := c.save(); err != nil {
		t.Error(err)
	}
	position, _, found, err := follow.ReadState(state, kind)
	if err != nil || !found || position.Offset != 0 {
		t.Errorf("the position is %v, %t, %v", position, found, err)
	}
}
