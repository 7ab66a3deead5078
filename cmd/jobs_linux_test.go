package cmd_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// With N jobs, memory stays under 16 MiB and N + 2 times the longest line.
func TestJobsMemory(t *testing.T) {
	t.Parallel()
	if bustest.RaceDetector {
		t.Skip("the race detector's memory is its own")
	}
	const size = 16 << 20
	text := strings.Repeat("x", size)
	store := newLogAndState(t, text[:size/2], text[:size*3/4], text, text, text, text, text, text)
	for _, jobs := range []int{1, 4} {
		for name, command := range map[string][]string{
			"a command":          {"--", "sh", "-c", "sleep 0.2; exec cat"},
			"persistent command": {"-persistent", "--", tool(t, "python3"), "-c", memoryReader},
		} {
			os.Remove(store.state)
			arguments := append(store.with("-end", "-jobs", strconv.Itoa(jobs)), command...)
			peak := peakOf(t, consuming(arguments...), os.DevNull)
			bound := float64(16<<20+(jobs+2)*(size+100)) / (1 << 20)
			what := fmt.Sprintf("%d jobs of %s, messages of 16 MiB", jobs, name)
			t.Logf("figure: %s: peak memory %.1f MiB, bound %.1f", what, peak, bound)
			if peak > bound {
				t.Errorf("%s: %.1f MiB of memory", what, peak)
			}
		}
	}
}

// memoryReader is a persistent command in Python.
const memoryReader = `import json, sys
for line in sys.stdin:
    print("ok", json.loads(line)["id"], flush=True)`
