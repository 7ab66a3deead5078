//go:build unix

package main_test

import (
	"fmt"
	"mbus/internal/shared/bustest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestRatios compares the speed of the forwarder with that of the library's asynchronous
// publishing. Both send messages of 128 bytes to file streams of one server, one after the
// other. MBUS_BENCH=1 selects this test.
func TestRatios(t *testing.T) {
	bustest.Benchmark(t)
	for _, test := range []struct {
		name, config string
		floor        float64
	}{
		{"default sync", "", 0.5},
		{"sync_interval: always", "sync_interval: always", 5},
	} {
		engine := prepareEngine(t, test.config, "")
		engine.start()
		var ratios []float64
		for round := range 3 {
			publishing := timePublishing(t, engine, round)
			forwarding := timeForwarding(t, engine, round)
			ratio := publishing.Seconds() / forwarding.Seconds()
			t.Logf("%s: the library's PublishAsync %d a second, the forwarder %d: ratio %.2f",
				test.name, int(benchCount/publishing.Seconds()),
				int(benchCount/forwarding.Seconds()), ratio)
			ratios = append(ratios, ratio)
		}
		slices.Sort(ratios)
		t.Logf("%s: ratio %.2f, must be at least %.1f", test.name, ratios[1], test.floor)
		if ratios[1] < test.floor {
			t.Errorf("%s: ratio %.2f, must be at least %.1f", test.name, ratios[1], test.floor)
		}
	}
}

const benchCount = 300_000

// timePublishing returns the time that the library's asynchronous publishing needs.
func timePublishing(t *testing.T, engine *engine, round int) time.Duration {
	t.Helper()
	jetStream, err := jetstream.New(engine.connect())
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("A%d", round)
	if _, err := jetStream.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{name + ".>"}}); err != nil {
		t.Fatal(err)
	}
	data := []byte(strings.Repeat("x", 128))
	stall := jetstream.WithStallWait(time.Minute) // for messages in flight
	begun := time.Now()
	for range benchCount {
		if _, err := jetStream.PublishAsync(name+".orders", data, stall); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-jetStream.PublishAsyncComplete():
	case <-time.After(5 * time.Minute):
		t.Fatal("no end")
	}
	taken := time.Since(begun)
	if err := jetStream.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return taken
}

// timeForwarding returns the time from the forwarder's start until its state has the place
// after the last message.
func timeForwarding(t *testing.T, engine *engine, round int) time.Duration {
	t.Helper()
	source := newSource(t)
	line := appendLine(nil, "orders", []byte(strings.Repeat("x", 128)))
	if _, err := source.file.WriteString(strings.Repeat(string(line), benchCount)); err != nil {
		t.Fatal(err)
	}
	if err := source.file.Sync(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("B%d", round)
	stream := engine.stream(jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}})
	begun := time.Now()
	process := engine.forward(source, "-stream", name, "-prefix", name+".")
	awaitPlace(t, source, benchCount, process)
	taken := time.Since(begun)
	process.stop()
	if state, _ := state(stream); state.Msgs != benchCount {
		t.Errorf("the stream has %d messages", state.Msgs)
	}
	if err := engine.jetStream().DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return taken
}
