package command

import (
	"os"
	"runtime/debug"
)

// SetMemory sets the memory limit of the Go runtime, in bytes, and its garbage
// collection target, in percent. What the environment says goes first: a lower
// GOMEMLIMIT, and any GOGC. See the package runtime for both.
func SetMemory(limit int64, gcPercent int) {
	const ask = -1 // returns the limit in force and sets none
	debug.SetMemoryLimit(min(limit, debug.SetMemoryLimit(ask)))
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
