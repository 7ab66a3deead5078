package osfile

import (
	"fmt"
	"os"
	"syscall"
)

// Sync makes the data of file durable, and the metadata that reading it needs; see
// fdatasync(2). The file may be open for reading only. On other systems than Linux, Sync is
// file.Sync. An error wraps ErrNotOnDisk.
func Sync(file *os.File) error {
	if err := control(file, syscall.Fdatasync); err != nil {
		err = &os.PathError{Op: "sync", Path: file.Name(), Err: err}
		return fmt.Errorf("%w: %w", ErrNotOnDisk, err)
	}
	return nil
}
