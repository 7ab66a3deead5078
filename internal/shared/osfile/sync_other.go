//go:build !linux

package osfile

import "os"

// Sync makes durable what was written to file.
func Sync(file *os.File) error { return file.Sync() }
