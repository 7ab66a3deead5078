// Package osfile has what a store needs of files and the package os lacks: locks,
// and writes that survive a power loss.
package osfile

import (
	"errors"
	"os"
	"path/filepath"
)

// ErrLocked is the error of Lock for a file that somebody else has locked.
var ErrLocked = errors.New("locked by another process")

// SyncDirectory makes durable that the file at path has its name. Where path is a
// symbolic link, it is the file behind it that counts. On Windows, which has no such
// call, it does nothing.
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
	return syncDirectory(directory)
}
