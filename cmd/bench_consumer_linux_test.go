package cmd_test

import (
	"bytes"
	"mbus/internal/shared/bustest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// expression is for sed. It prints the data of each message's line, without unescaping it.
const expression = `s/^[0-9/]* [0-9:]* Received new message from topic '[^']*': '\(.*\)'$/\1/p`

// TestConsumerRatios measures the consumer beside cat and sed.
// make bench runs it.
func TestConsumerRatios(t *testing.T) {
	bustest.Benchmark(t)
	directory := t.TempDir()
	output := filepath.Join(directory, "output")
	write := func(name string, count int) (path string) {
		path = filepath.Join(directory, name)
		line := inLog("orders", strings.Repeat("x", 128))
		if err := os.WriteFile(path, []byte(strings.Repeat(line, count)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	million, part := write("million", 1_000_000), write("part", 100_000)
	consume := func(path string) func() float64 {
		return func() float64 { return timeOf(t, output, consuming("-log", path, "-end")) }
	}
	cat := func() float64 { return timeOf(t, output, exec.Command("cat", million)) }
	sed := func() float64 {
		command := exec.Command("sed", "-n", expression, million)
		command.Env = append(os.Environ(), "LC_ALL=C")
		return timeOf(t, output, command)
	}

	sed()
	fromSed, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	consume(million)()
	if ours, err := os.ReadFile(output); err != nil || !bytes.Equal(ours, fromSed) {
		t.Fatalf("sed and the consumer write different files: %v", err)
	}
	ratios, times := inTurn(10, consume(million), cat)
	t.Logf("figure: a million lines of 128 bytes, of cat's time: %s, target <= 4 (%.2f s)",
		ratios, times.quantile(0.5))
	if ratios.quantile(0.5) > 4 {
		t.Error("it takes more than 4 times cat's time")
	}
	ratios, times = inTurn(1, sed, consume(million))
	t.Logf("figure: sed's time, of the consumer's: %s (sed %.1f s)", ratios, times.quantile(0.5))
	ratios, _ = inTurn(10, consume(million), consume(part))
	t.Logf("figure: a million lines, of the time for 100,000: %s, 10 is linear", ratios)
	peak := peakOf(t, consuming("-log", million, "-end"), million)
	t.Logf("figure: peak memory for a million lines: %.1f MiB", peak)
}

// timeOf runs a command, which writes to the file output, and returns its time in seconds.
func timeOf(t *testing.T, output string, command *exec.Cmd) float64 {
	t.Helper()
	file, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	command.Stdout = file
	begin := time.Now()
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin).Seconds()
}
