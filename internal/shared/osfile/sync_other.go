//go:build !linux

package osfile

import (
	"fmt"
	"os"
)

// Sync makes the data of file durable. An error wraps ErrNotOnDisk.
func Sync(file *os.File) error {
	if err := file.Sync(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotOnDisk, err)
	}
	return nil
}
