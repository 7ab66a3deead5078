package cmd_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// TestJobsRatios measures jobs of 0.2 s that run at once, beside xargs -P. make bench runs it.
func TestJobsRatios(t *testing.T) {
	bustest.Benchmark(t)
	const job = 200 * time.Millisecond
	for _, jobs := range []int{1, 4, 16} {
		number := strconv.Itoa(jobs)
		messages := bustest.Numbers(1, 5*jobs)
		ideal := func() float64 { return (5 * job).Seconds() }
		consumer := func() float64 {
			store := newLogAndState(t, messages...)
			return timeOf(t, os.DevNull, consuming(store.with("-end", "-jobs", number,
				"--", "sleep", "0.2")...))
		}
		xargs := func() float64 {
			command := exec.Command("xargs", "-n1", "-P", number, "sh", "-c", "exec sleep 0.2")
			command.Stdin = strings.NewReader(strings.Join(messages, "\n"))
			return timeOf(t, os.DevNull, command)
		}
		ours, _ := inTurn(1, ideal, consumer)
		theirs, _ := inTurn(1, ideal, xargs)
		t.Logf("figure: %d jobs of 0.2 s at once, the ideal time of ours: %s, target >= 0.9; "+
			"of xargs -P: %s", jobs, ours, theirs)
		if ours.quantile(0.5) < 0.9 {
			t.Errorf("%d jobs take more than the ideal time by a tenth", jobs)
		}
	}
}

// TestPersistentRatios measures the manual page's persistent worker in Python beside a bare loop
// that writes its line and reads the answer, and beside one process a message.
func TestPersistentRatios(t *testing.T) {
	bustest.Benchmark(t)
	python := tool(t, "python3")
	recipe := manualDisplays(t, "mbus-consumer.1", "A persistent worker in Python", 2)
	program := strings.Replace(recipe[0],
		"print(order[\"data\"], file=sys.stderr)", "order[\"data\"]", 1)
	worker := filepath.Join(t.TempDir(), "worker.py")
	if err := os.WriteFile(worker, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	const count = 20_000
	store := newLogAndState(t, bustest.Numbers(1, count)...)
	line := `{"id":"5b1b30b6c2830ccd-12-48213-9a0364b9","time":"2024-06-02T10:39:55",` +
		`"topic":"t","data":"12345","attempt":1}` + "\n"
	consumer := func(flags ...string) func() float64 {
		return func() float64 {
			os.Remove(store.state)
			flags := append(flags, "-end", "-persistent", "--", python, worker)
			return timeOf(t, os.DevNull, consuming(store.with(flags...)...))
		}
	}
	bare := func() float64 { return bareLoop(t, exec.Command(python, worker), line, count) }
	ratios, times := inTurn(2, bare, consumer())
	t.Logf("figure: messages a second of a persistent worker in Python, of a bare loop: %s, "+
		"target >= 0.4 (a bare loop: %.0f a second)", ratios, count/times.quantile(0.5))
	if ratios.quantile(0.5) < 0.4 {
		t.Error("it has less than 0.4 of a bare loop's")
	}
	ratios, _ = inTurn(1, consumer(), consumer("-jobs", "4"))
	t.Logf("figure: four jobs of it, of one job: %s", ratios)
	const few = 20
	each := func() float64 {
		os.Remove(store.state)
		echo := []string{"-count", strconv.Itoa(few), "--", python, "-c", "import json, sys"}
		return timeOf(t, os.DevNull, consuming(store.with(echo...)...)) * count / few
	}
	ratios, _ = inTurn(1, each, consumer())
	t.Logf("figure: messages a second of a persistent worker, of one process a message: %s", ratios)
}

// bareLoop returns the seconds in which a command answers count lines, one at a time.
func bareLoop(t *testing.T, command *exec.Cmd, line string, count int) float64 {
	t.Helper()
	start := time.Now()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(output)
	for range count {
		if _, err := fmt.Fprint(input, line); err != nil {
			t.Fatal(err)
		}
		if _, err := answers.ReadSlice('\n'); err != nil {
			t.Fatal(err)
		}
	}
	input.Close()
	if err := command.Wait(); err != nil {
		t.Fatal(err)
	}
	return time.Since(start).Seconds()
}
