package osfile

import (
	"fmt"
	"os"
	"syscall"
)

// Sync makes durable what was written to file: its data, and of its metadata what
// reading them needs; see fdatasync(2). A file that is open for reading only will
// do. Where there is no fdatasync, it is file.Sync. An error wraps ErrNotOnDisk.
func Sync(file *os.File) error {
	if err := control(file, syscall.Fdatasync); err != nil {
		return fmt.Errorf("%w: %w", ErrNotOnDisk, &os.PathError{Op: "sync", Path: file.Name(), Err: err})
	}
	return nil
}
