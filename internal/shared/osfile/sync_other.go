//go:build !linux

package osfile

import (
	"fmt"
	"os"
)

// Sync makes durable what was written to file. An error wraps ErrNotOnDisk.
func Sync(file *os.File) error {
	if err := file.Sync(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotOnDisk, err)
	}
	return nil
}
