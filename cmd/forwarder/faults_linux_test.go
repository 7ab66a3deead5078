package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
)

// traced starts a forwarder under strace, which writes its trace into a file. With -D the
// process that the test started is the forwarder, not strace, so that it receives signals.
func traced(engine *engine, source *source, options ...string) (process *process, trace string) {
	engine.t.Helper()
	trace = filepath.Join(engine.t.TempDir(), "trace")
	strace, err := exec.LookPath("strace")
	if err == nil {
		err = exec.Command(strace, "-D", "-o", trace, "true").Run()
	}
	if err != nil {
		engine.t.Skipf("NOT TESTED: strace can't trace here: %v", err)
	}
	arguments := append([]string{"-D", "-f", "-y", "-s", "4096", "-o", trace}, options...)
	arguments = append(arguments, forwarder, "-log", source.path, "-state", source.path+"_state",
		"-stream", "ORDERS", "-url", engine.url)
	return start(engine.t, exec.Command(strace, arguments...)), trace
}

// The forwarder syncs a message in the log before it sends the message.
func TestSyncBeforeSending(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	process, trace := traced(engine, source, "-e", "trace=pread64,pwrite64,fdatasync,write")
	const count = 10
	for number := range count {
		marker := fmt.Appendf(nil, "marker-%d-", number)
		fmt.Fprintf(source.file, "%s", appendLine(nil, "orders", marker))
		await(t, stream, number+1, process)
	}
	process.stop()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	events := strings.Split(string(text), "\n")
	find := func(first int, pattern string) int {
		at := slices.IndexFunc(events[first:], regexp.MustCompile(pattern).MatchString)
		if at < 0 {
			t.Fatalf("after event %d there is no %s", first, pattern)
		}
		return first + at
	}
	saved, first := find(0, `pwrite64\(.*sequence 0 message unknown `), find(0, `write\(.*HPUB `)
	if saved > first {
		t.Errorf("saved as event %d, sent as %d", saved, first)
	}
	for number := range count {
		sent := find(0, fmt.Sprintf(`write\(.*HPUB .*marker-%d-`, number))
		read := find(0, fmt.Sprintf(`pread64.*marker-%d-`, number))
		synced := find(read,
			`fdatasync(\(\d+<`+regexp.QuoteMeta(source.path)+`>\)| resumed>\)) += 0`)
		if synced > sent {
			t.Errorf("message %d: read as event %d, synced as %d, sent as %d",
				number, read, synced, sent)
		}
	}
}

// If the sync of the log fails, the forwarder sends nothing.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	process, _ := traced(engine, source, "-P", source.path, "-e", "inject=fdatasync:error=EIO")
	process.expect(1, source.path+": input/output error")
	if state, _ := state(stream); state.LastSeq != 0 {
		t.Errorf("the stream has %d messages", state.LastSeq)
	}
}

// Resident memory stays under 64 MiB and three times the longest line, while the forwarder
// sends messages, and while it compares them with the stream's.
func TestMemory(t *testing.T) {
	if bustest.RaceDetector {
		t.Skip("the race detector takes memory of its own")
	}
	t.Parallel()
	const mib = 1 << 20
	for _, test := range []struct {
		name string
		data string
		many int
	}{
		{"small ones", strings.Repeat("x", 128), bustest.LongOrShort(1_000_000, 20_000)},
		{"64 KiB each", strings.Repeat("x", 64<<10), bustest.LongOrShort(5000, 200)},
		{"900 KiB each", strings.Repeat("x", 900<<10), bustest.LongOrShort(100, 10)},
		{"16 MiB each", strings.Repeat("x", 16*mib), bustest.LongOrShort(10, 1)},
		{"16 MiB each, all escaped", strings.Repeat("\x00", 16*mib), bustest.LongOrShort(10, 1)},
		{"30 MiB each", strings.Repeat("x", 30*mib), bustest.LongOrShort(10, 1)},
	} {
		line := appendLine(nil, "orders", []byte(test.data))
		peaks := measurePeaks(t, line, test.many)
		bound := 64*mib + 3*len(line)
		t.Logf("%d messages, %s: %d MiB while sending, %d MiB while comparing, of %d",
			test.many, test.name, peaks[0]/mib, peaks[1]/mib, bound/mib)
		if max(peaks[0], peaks[1]) > bound {
			t.Errorf("%s: %d bytes, must be at most %d", test.name, peaks, bound)
		}
	}
}

// measurePeaks returns the peaks of the resident memory of two forwarders, in bytes: of one that
// sends so many messages, which all have the same line, and of one that compares them.
func measurePeaks(t *testing.T, line []byte, many int) (peaks [2]int) {
	t.Helper()
	engine, source := prepareEngine(t, "", "max_payload: 64MB\nmax_pending: 256MB"), newSource(t)
	engine.start()
	stream := engine.stream(jetstream.StreamConfig{})
	source.file.Write(line)
	process := engine.forward(source)
	await(t, stream, 1, process)
	awaitPlace(t, source, 1, process)
	process.Kill()
	stale := source.readState()
	for range many {
		if _, err := source.file.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	for i := range peaks {
		source.writeState(stale)
		process := engine.forward(source)
		awaitPlace(t, source, many+1, process)
		peaks[i] = peakMemory(t, process)
		process.Kill()
	}
	engine.process.Kill()
	return peaks
}

// The same bound holds when a large message that came late is compared.
func TestMemoryOfLateBatch(t *testing.T) {
	if bustest.RaceDetector {
		t.Skip("the race detector takes memory of its own")
	}
	t.Parallel()
	const mib = 1 << 20
	engine, source := prepareEngine(t, "", "max_payload: 64MB\nmax_pending: 256MB"), newSource(t)
	engine.start()
	stream := engine.stream(jetstream.StreamConfig{})
	proxy := newHolder(t, engine, func() {
		bustest.Until(t, "the late batch", func() bool {
			state, _ := state(stream)
			return state.LastSeq == 1
		})
	})
	line := appendLine(nil, "orders", bytes.Repeat([]byte("x"), 30*mib))
	source.file.Write(line)
	process := engine.forward(source, "-url", proxy, "-timeout", "3s")
	awaitPlace(t, source, 1, process)
	peak, bound := peakMemory(t, process), 64*mib+3*len(line)
	t.Logf("%d MiB of %d", peak/mib, bound/mib)
	if peak > bound {
		t.Errorf("%d bytes, must be at most %d", peak, bound)
	}
	process.stop("no answer within 3s; retrying", ": back after ")
}

// peakMemory returns the peak of a process's resident memory, in bytes.
func peakMemory(t *testing.T, process *process) int {
	t.Helper()
	size, running := process.PeakMemory()
	if !running {
		t.Fatal("the forwarder has ended, so its memory is unknown")
	}
	return size
}
