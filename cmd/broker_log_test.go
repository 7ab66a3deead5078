//go:build unix

package cmd_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/apiv1"
	"mbus/internal/producer"
	"mbus/internal/shared/bustest"
)

func TestStoreMisuse(t *testing.T) {
	t.Parallel()
	expect(t, 2, "broker: invalid value \"\" for flag -log: must be a file (see broker -h)\n",
		"broker", "-log", "")
	expect(t, 2, "broker: -sync without -log: must be with the log to sync (see broker -h)\n",
		"broker", "-sync")
}

// A broker that opens a log cuts off a torn last line, wherever it is torn. It keeps all other
// lines.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	const line = "2026/01/02 03:04:05 Received new message from topic 't': 'it's a ma's'\n"
	const apostrophe = len("2026/01/02 03:04:05 Received new message from topic 't': 'it'")
	address := bustest.FreeAddress(t)
	path := filepath.Join(t.TempDir(), "log")
	count := 0
	for cut := 0; cut < len(line); cut++ {
		if cut%bustest.LongOrShort(1, 12) != 0 && cut != apostrophe && cut != len(line)-1 {
			continue
		}
		count++
		if err := os.WriteFile(path, []byte(line+line+line[:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		broker := startStoreAt(t, address, path, "-interval", "0")
		broker.Accept(bustest.Payload("t", "next"), 1)
		broker.stop()
		log := broker.Log.String()
		got := bustest.Received(t, log)["t"]
		if want := []string{"it's a ma's", "it's a ma's", "next"}; !slices.Equal(got, want) {
			t.Errorf("torn at %d: the messages are %q, want %q", cut, got, want)
		}
		report := fmt.Sprintf("Broker: cut %d bytes of a torn line off the end of the log\n", cut)
		if strings.Contains(log, report) != (cut > 0) {
			t.Errorf("torn at %d: the log is\n%s\nwant the line %q if anything is cut off",
				cut, log, report)
		}
	}
	t.Logf("figure: a line torn at %d places, each cut off by the next broker", count)
}

// killedLog is a log whose brokers are killed one after the other. After each kill, check adds to
// its counts.
type killedLog struct {
	rotations
	kept string // the whole lines of the last file at the last check
	torn int    // kills that left a torn line
	cut  int    // torn lines that a broker has cut off
	sum  tally
}

// check compares the lines since the last check with what the writers know, and removes the
// rotated files. The broker must have been killed. Only the last file may have a torn end.
func (l *killedLog) check(t *testing.T, writers []*writer) {
	t.Helper()
	texts := l.files()
	if last := len(texts) - 1; last >= 0 {
		end := strings.LastIndexByte(texts[last], '\n') + 1
		if end < len(texts[last]) {
			l.torn++
		}
		texts[last] = texts[last][:end]
	}
	text, found := strings.CutPrefix(joinFiles(t, texts), l.kept)
	if !found {
		t.Fatal("the log does not begin with the whole lines that it had at the last kill")
	}
	l.cut += strings.Count(text, " Broker: cut ")
	l.sum.add(verify(t, text, writers, true))
	for ; l.count > 0; l.count-- {
		os.Remove(fmt.Sprintf("%s.%d", l.path, l.count))
	}
	l.kept = file(l.path).String()
	l.kept = l.kept[:strings.LastIndexByte(l.kept, '\n')+1]
}

// loadLarge is like load, with one producer. It sends messages of 1 MiB, because a broker needs
// several writes for a line of that size.
func (b *brokerProcess) loadLarge() (finish func() *writer) {
	large, ended := &writer{name: "large"}, make(chan struct{})
	p, padding := b.producer(), strings.Repeat("x", 1<<20)
	go func() {
		defer close(ended)
		for {
			text := fmt.Sprintf("%s %d %s", large.name, large.acked, padding)
			message := &apiv1.Message{Topic: "large", Data: []byte(text)}
			err := p.Send(b.t.Context(), []*apiv1.Message{message})
			if errors.Is(err, producer.ErrUnknown) {
				large.unknown = 1
			}
			if err != nil {
				return
			}
			large.acked++
		}
	}()
	return func() *writer {
		<-ended
		return large
	}
}

// Brokers are killed one after the other, on one log that is rotated all the time. They lose no
// acknowledged message. Only the line that a killed broker was writing is torn.
func TestKillsAndRotations(t *testing.T) {
	t.Parallel()
	address := bustest.FreeAddress(t)
	log := &killedLog{rotations: rotations{path: filepath.Join(t.TempDir(), "log")}}
	rounds, rotated := bustest.LongOrShort(200, 20), 0
	for round := range rounds {
		arguments := [][]string{{"-interval", "0"}, {"-interval", "0", "-sync"}}[round%2]
		broker := startStoreAt(t, address, log.path, arguments...)
		finish, finishLarge := broker.load(3, 40), broker.loadLarge()
		end := time.Now().Add(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
		if round%10 == 0 { // long enough for the broker to notice a rotation
			end = end.Add(1100 * time.Millisecond)
		}
		for time.Now().Before(end) {
			pause(40 * time.Millisecond)
			if rand.IntN(3) > 0 { // not always, so that some torn ends are left to be cut off
				log.rotate(t)
			}
		}
		broker.Kill()
		rotated += log.count
		log.check(t, append(finish(), finishLarge()))
	}
	t.Logf("figure: %d kills at -interval 0 with a restart on the same file, and %d rotations: "+
		"%d acknowledged messages, %d of them lost, %d twice; %d torn ends, %d cut off",
		rounds, rotated, log.sum.acked, log.sum.lost, log.sum.extra, log.torn, log.cut)
}

// Rotations under load lose, repeat and tear no line.
func TestRotations(t *testing.T) {
	t.Parallel()
	for _, interval := range []string{"1ms", "100ms", "0"} {
		t.Run(interval, func(t *testing.T) {
			t.Parallel()
			log := &rotations{path: filepath.Join(t.TempDir(), "log")}
			broker := startStore(t, log.path, "-interval", interval)
			finish := broker.load(2, 10)
			for range bustest.LongOrShort(50, 4) {
				pause(60 * time.Millisecond)
				log.rotate(t)
				log.awaitFile(t)
			}
			broker.stop()
			sum := verify(t, joinFiles(t, log.files()), finish(), false)
			t.Logf("figure: %d rotations at -interval %s under load: %d acknowledged messages, "+
				"%d of them lost, %d twice, none torn",
				log.count, interval, sum.acked, sum.lost, sum.extra)
		})
	}
}

// logrotate returns a function that rotates the file path with logrotate. The configuration has
// what mbus needs of logrotate, and more lines.
func logrotate(t *testing.T, path, more string) func() {
	t.Helper()
	program := tool(t, "logrotate")
	configuration, state := path+".conf", path+".state"
	const lines = "nocreate\n\tnocompress\n\tnodateext\n\trotate 100"
	text := fmt.Sprintf("%s {\n\t%s\n\t%s\n}\n", path, lines, more)
	// logrotate refuses a directory or a configuration that other users can write to.
	err := errors.Join(os.Chmod(filepath.Dir(path), 0o700),
		os.WriteFile(configuration, []byte(text), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		rotation := exec.Command(program, "-f", "-s", state, configuration)
		if output, err := rotation.CombinedOutput(); err != nil || len(output) > 0 {
			t.Fatalf("logrotate: %v\n%s", err, output)
		}
	}
}

// readRotated returns the text of a rotated file, which may be compressed.
func readRotated(t *testing.T, path string) string {
	t.Helper()
	if text, err := os.ReadFile(path); err == nil {
		return string(text)
	}
	compressed, err := os.ReadFile(path + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	reader, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Rotations by logrotate lose, repeat and tear no line.
func TestLogrotate(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string]string{
		"as shipped": "", "compressed": "compress\n\tdelaycompress",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &rotations{path: filepath.Join(t.TempDir(), "log")}
			rotate := logrotate(t, log.path, lines)
			broker := startStore(t, log.path, "-interval", "20ms")
			finish := broker.load(2, 10)
			count := bustest.LongOrShort(50, 5)
			for range count {
				pause(60 * time.Millisecond)
				rotate()
				log.awaitFile(t)
			}
			broker.stop()
			texts := []string{file(log.path).String()}
			for i := range count {
				rotated := readRotated(t, fmt.Sprintf("%s.%d", log.path, i+1))
				texts = append([]string{rotated}, texts...)
			}
			sum := verify(t, joinFiles(t, texts), finish(), false)
			t.Logf("figure: %d rotations by logrotate, %s: %d acknowledged messages, "+
				"%d of them lost, %d twice, none torn", count, name, sum.acked, sum.lost, sum.extra)
		})
	}
}

// A log belongs to one broker, by whatever name a second one opens it. The second broker ends with
// status 1, and does not change the log.
func TestBrokersOnOneFile(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "log")
	first := startStore(t, path, "-interval", "1ms")
	hard, symbolic := filepath.Join(directory, "hard"), filepath.Join(directory, "symbolic")
	if err := errors.Join(os.Link(path, hard), os.Symlink("log", symbolic)); err != nil {
		t.Fatal(err)
	}
	finish := first.load(2, 40)
	t.Chdir(directory)
	for _, name := range []string{path, hard, symbolic, "log", "./log"} {
		expect(t, 1, "broker: "+name+": in use by another broker\n",
			"broker", "-pport", "0", "-log", name)
	}
	first.stop()
	verify(t, first.Log.String(), finish(), false)
}

// If several brokers start at once on one log, exactly one of them runs.
func TestBrokersAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	const count = 3
	statuses := make(chan int, count)
	var brokers []*exec.Cmd
	for range count {
		broker := brokerCommand("-log", path)
		if err := broker.Start(); err != nil {
			t.Fatal(err)
		}
		brokers = append(brokers, broker)
		go func() {
			broker.Wait()
			statuses <- broker.ProcessState.ExitCode()
		}()
		t.Cleanup(func() { broker.Process.Kill() })
	}
	bustest.Until(t, "the end of all brokers but one", func() bool {
		return len(statuses) == count-1
	})
	bustest.Until(t, "the listening line", func() bool {
		return listeningLine.MatchString(file(path).String())
	})
	for _, broker := range brokers {
		broker.Process.Signal(syscall.SIGTERM)
	}
	bustest.Until(t, "the end of the last broker", func() bool { return len(statuses) == count })
	sum := 0
	for range count {
		sum += <-statuses
	}
	if lines := bustest.Lines(t, file(path).String()); sum != count-1 || len(lines) != 5 {
		t.Errorf("the sum of the statuses is %d, want %d, and the log has %d lines, want 5: %q",
			sum, count-1, len(lines), lines)
	}
}

// When the log's directory is renamed under load, the broker keeps the messages. It writes them
// once the directory is back, or another one has its name.
func TestDirectoryGoesAway(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]func(away, directory string) error{
		"and comes back": os.Rename,
		"and another comes": func(_, directory string) error {
			return os.Mkdir(directory, 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			directory := filepath.Join(t.TempDir(), "directory")
			away, path := directory+".away", filepath.Join(directory, "log")
			if err := os.Mkdir(directory, 0o700); err != nil {
				t.Fatal(err)
			}
			broker := startStore(t, path, "-interval", "5ms")
			finish := broker.load(2, 10)
			pause(60 * time.Millisecond)
			if err := os.Rename(directory, away); err != nil {
				t.Fatal(err)
			}
			const line = "Broker: the log fails, retrying: open "
			bustest.Until(t, "the line "+line, func() bool {
				return strings.Contains(broker.Stderr.String(), line)
			})
			old := file(filepath.Join(away, "log")).String()
			pause(60 * time.Millisecond)
			if err := back(away, directory); err != nil {
				t.Fatal(err)
			}
			bustest.Until(t, "the end of the outage", func() bool {
				return strings.Contains(broker.Log.String(), path+": no such file or directory\n")
			})
			broker.stop()
			log := broker.Log.String()
			if !strings.HasPrefix(log, old) {
				log = joinFiles(t, []string{old, log})
			}
			sum := verify(t, log, finish(), false)
			if lines := bustest.Lines(t, broker.Stderr.String()); len(lines) != 1 {
				t.Errorf("standard error has the lines %q, want 1 line", lines)
			}
			t.Logf("figure: a directory goes away under load %s: %d acknowledged messages, "+
				"%d of them lost, %d twice, none torn", name, sum.acked, sum.lost, sum.extra)
		})
	}
}
