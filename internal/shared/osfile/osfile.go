// Package osfile locks and replaces files, and syncs files and directories.
package osfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrLocked is the error of Lock for a file that is locked already.
var ErrLocked = errors.New("locked by another process")

// ErrNotOnDisk is wrapped by the error of a sync that failed. The error is final: the kernel
// may have dropped the data that it could not write, and the next sync may succeed without
// it.
var ErrNotOnDisk = errors.New("not on disk")

// SyncDirectory makes the name of the file at path durable. If path is a symbolic link, this
// is the name of the file that the link leads to. On systems without this operation,
// SyncDirectory does nothing. An error of the sync wraps ErrNotOnDisk. An error of opening the
// directory does not: a later call may succeed.
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

// Replace writes data to a new file beside path, gives it the mode, whatever the umask is, and
// renames it to path. So a reader finds the old data or the new, whole. It syncs nothing. After an
// error the file at path is unchanged.
func Replace(path string, data []byte, mode fs.FileMode) error {
	beside, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = beside.Write(data)
	err = errors.Join(err, beside.Chmod(mode), beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), path)
	}
	if err != nil {
		os.Remove(beside.Name())
	}
	return err
}
