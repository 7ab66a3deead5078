// Package osfile has what a store needs of files and the package os lacks: locks,
// and writes that survive a power loss.
package osfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrLocked is the error of Lock for a file that somebody else has locked.
var ErrLocked = errors.New("locked by another process")

// ErrNotOnDisk is wrapped by the error of a sync that failed. The error is final: the
// kernel may have dropped what it could not write, and the next sync would not report
// that.
var ErrNotOnDisk = errors.New("not on disk")

// SyncDirectory makes durable that the file at path has its name. Where path is a
// symbolic link, it is the file behind it that counts. On Windows, which has no such
// call, it does nothing. An error wraps ErrNotOnDisk if it is the sync's own: a directory
// that can't be opened may be opened later.
func SyncDirectory(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	directory, err := os.Open(filepath.Dir(real))
	if err != nil {
		return err
	}
	defer directory.Close()
	if err := syncDirectory(directory); err != nil {
		return fmt.Errorf("%w: %w", ErrNotOnDisk, err)
	}
	return nil
}
