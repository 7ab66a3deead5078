package command_test

import (
	"math"
	"runtime/debug"
	"testing"

	"mbus/internal/shared/command"
)

// GOGC and a lower GOMEMLIMIT in the environment take precedence over SetMemory.
func TestSetMemory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for _, test := range []struct {
		gogc        string
		limit       int64 // of the runtime, from GOMEMLIMIT
		wantLimit   int64
		wantPercent int
	}{
		{"", math.MaxInt64, 1 << 40, 300},
		{"", 1 << 39, 1 << 39, 300},
		{"", 1 << 41, 1 << 40, 300},
		{"100", math.MaxInt64, 1 << 40, 100},
	} {
		t.Setenv("GOGC", test.gogc)
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(test.limit)
		command.SetMemory(1<<40, 300)
		if limit := debug.SetMemoryLimit(-1); limit != test.wantLimit {
			t.Errorf("%+v: the limit is %d", test, limit)
		}
		if percent := debug.SetGCPercent(100); percent != test.wantPercent {
			t.Errorf("%+v: the target is %d %%", test, percent)
		}
	}
}
