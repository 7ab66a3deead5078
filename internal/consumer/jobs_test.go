//go:build unix

package consumer_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/follow"
)

// A state that has a note of jobs, and is torn or has a wrong byte, never makes a consumer pass
// over a message that is not done.
func TestJobsStateDamaged(t *testing.T) {
	f := newFiles(t)
	f.write(stamp + "Broker: file 1 of log 5b1b30b6c2830ccd: mbus.log\n")
	for number := range 8 {
		f.write(line("t", fmt.Sprint(number)))
	}
	const script = `read -r number; case $number in 1|4) exit 1;; esac`
	config := f.config()
	config.Jobs, config.Command = 2, []string{"sh", "-c", script}
	if _, _, err := consume(t, config); err == nil {
		t.Fatal("nothing failed")
	}
	good, err := os.ReadFile(f.state)
	if err != nil || !strings.Contains(string(good), " note done ") {
		t.Fatalf("the state has no note: %v:\n%s", err, good)
	}
	try := func(what string, damaged []byte) {
		t.Helper()
		if err := os.WriteFile(f.state, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		got, _, err := consume(t, f.config())
		lines := strings.Fields(got)
		if err == nil && (!slices.Contains(lines, "1") || !slices.IsSorted(lines) ||
			lines[len(lines)-1] != "7") {
			t.Fatalf("%s: delivered %q", what, lines)
		}
	}
	try("whole", good)
	for i := range good {
		try(fmt.Sprintf("cut at %d", i), good[:i])
		if good[i] != ' ' || i%16 == 0 {
			flipped := slices.Clone(good)
			flipped[i] ^= 1
			try(fmt.Sprintf("flipped at %d", i), flipped)
		}
	}
}

// While a persistent command handles a message for long, the position after the one before it is
// saved within a second.
func TestPersistentSavesOnTheWay(t *testing.T) {
	f := newFiles(t)
	f.write(line("t", "first") + line("t", "second"))
	const script = `while IFS='"' read -r _ _ _ id rest; do
		case $rest in *second*) until test -e "$0.go"; do sleep 0.01; done;; esac
		echo "ok $id"
	done`
	config := f.config()
	config.Persistent, config.Command = true, []string{"sh", "-c", script, f.state}
	ended := make(chan error, 1)
	go func() {
		_, _, err := consume(t, config)
		ended <- err
	}()
	bustest.Until(t, "a save", func() bool {
		position, _, _, err := follow.ReadState(f.state, "consumer")
		return err == nil && position.Offset == int64(len(line("t", "first")))
	})
	if err := os.WriteFile(f.state+".go", nil, 0o600); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
