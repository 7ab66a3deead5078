package command

import (
	"os"
	"runtime/debug"
)

// SetMemory sets the memory limit of the Go runtime, in bytes, and its garbage collection
// target, in percent. A lower GOMEMLIMIT and any GOGC in the environment take precedence.
// The package runtime documents both.
func SetMemory(limit int64, gcPercent int) {
	const query = -1 // makes SetMemoryLimit return the limit and leave it alone
	debug.SetMemoryLimit(min(limit, debug.SetMemoryLimit(query)))
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
