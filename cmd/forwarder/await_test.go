//go:build unix

package main_test

import (
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
)

// A log that is not there is awaited with one line after 5 seconds.
func TestAwaitsLog(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(1)
	if err := os.Rename(source.path, source.path+"_away"); err != nil {
		t.Fatal(err)
	}
	process := engine.forward(source)
	want := source.path + ": is not there yet, and is awaited"
	bustest.Until(t, want, func() bool { return strings.Contains(process.Stderr.String(), want) })
	if err := os.Rename(source.path+"_away", source.path); err != nil {
		t.Fatal(err)
	}
	await(t, stream, source.count, process)
	process.stop(want)
	compare(t, stream, source.count)
}
