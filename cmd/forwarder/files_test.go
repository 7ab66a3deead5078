//go:build unix

package main_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// shell runs a script in the directory of the log.
func (s *source) shell(script string) {
	s.t.Helper()
	command := exec.Command("sh", "-ec", script)
	command.Dir = filepath.Dir(s.path)
	if output, err := command.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v: %s", script, err, output)
	}
}

// Whatever people do to the files of a log, the stream has each message once, from a forwarder that
// is started afterwards, and from one that runs meanwhile. The rotated files are mbus.log-000001
// and mbus.log-000002.
func TestHandledFiles(t *testing.T) {
	t.Parallel()
	for _, script := range []string{
		"mkdir x; cp mbus.log* x/; rm mbus.log-*; mv x/mbus.log-* .",
		"touch -t 203011290000 mbus.log-000001",
		"touch -t 196907200000 mbus.log-000002",
		"gzip mbus.log-000001; gzip -dc mbus.log-000001.gz > mbus.log-000001",
		"ln mbus.log-000001 mbus.log.2026-11-28; ln -s mbus.log-000002 mbus.log-7",
		"cp mbus.log mbus.log-20261129; cp mbus.log-000002 mbus.log.2",
		"sed 's/file 2 of log [0-9a-f]*/file 2 of log 00000000000000bb/' " +
			"mbus.log-000002 > mbus.log-2",
	} {
		engine, source := newEngine(t), newSource(t)
		stream := engine.stream(jetstream.StreamConfig{})
		source.write(100)
		forwardAll(engine, source, stream)
		source.write(100)
		source.rotate()
		source.write(200)
		source.rotate()
		source.write(200)
		source.shell(script)
		process := engine.forward(source) // starts afterwards
		await(t, stream, source.count, process)
		source.rotate()
		source.write(50)
		await(t, stream, source.count, process)
		source.shell("touch mbus.log-000002")
		source.rotate()
		source.write(50)
		await(t, stream, source.count, process)
		process.stop()
		compare(t, stream, source.count)
		if t.Failed() {
			t.Fatalf("after %s", script)
		}
	}
}

// An edited log, and a file that stays missing, end the forwarder.
func TestMissingFile(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(100)
	forwardAll(engine, source, stream)
	source.rotate()
	source.write(10)
	source.rotate()
	source.write(10)
	source.shell("mv mbus.log-000002 away")
	process := engine.forward(source)
	process.expect(1, "the position is lost", ": file 2 is missing")
	if reported := process.Stderr.String(); strings.Count(reported, "\n") != 1 {
		t.Errorf("it reported:\n%s", reported)
	}
	source.shell("mv away mbus.log-000002")
	process = engine.forward(source)
	await(t, stream, source.count, process)
	source.shell("sed 's/ 10 new/ 11 new/' mbus.log > x; mv x mbus.log")
	process.expect(1, "the position is lost")
	compare(t, stream, source.count)
}

// A state of an earlier version, in a log of that version, is read on.
func TestEarlierState(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	if err := os.Truncate(source.path, 0); err != nil { // it has no first line
		t.Fatal(err)
	}
	source.write(100)
	forwardAll(engine, source, stream)
	// In a state of that version, two words follow the place.
	form := regexp.MustCompile(`offset (\d+) log 0+ file 0 hash ([0-9a-f]+) note (.*)`)
	line := form.FindSubmatch(source.readState()[384:])
	if line == nil {
		t.Fatalf("the state is %s", source.readState())
	}
	var state []byte
	for save := range 2 {
		text := fmt.Sprintf("mbus forwarder save %d offset %s time 0 hash %s note %s pending true",
			save+1, line[1], line[2], bytes.TrimSpace(line[3][:90]))
		text = fmt.Sprintf("%-246s", text)
		state = fmt.Appendf(state, "%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
	}
	source.write(10)
	source.number = 1 // the broker counts the file as file 1
	source.rotate()
	source.write(10)
	source.writeState(state)
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
}

// A state of an earlier version may not have the hash of a message that the stream has.
func TestUnknownMessage(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	forwardAll(engine, source, stream)
	source.setNote("sequence 10 message unknown")
	source.write(10)
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
}

// A note that a forwarder can't have written is an error, and -seek sets another state.
func TestForeignNote(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	source.write(10)
	source.setNote("sequence ten")
	for _, arguments := range [][]string{nil, {"-seek", "here"}} {
		engine.forward(source, arguments...).expect(1,
			`the note "sequence ten" is not a forwarder's`, "-seek start", "-seek end")
	}
	engine.seek(source, "start")
	forwardAll(engine, source, stream)
	compare(t, stream, source.count)
}
