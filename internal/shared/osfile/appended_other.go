//go:build !linux

package osfile

import (
	"io/fs"
	"os"
)

// OpenAppended returns nil: on these systems a file that is open for writing alone can't be
// opened again for reading.
func OpenAppended(*os.File) *os.File { return nil }

// Inode returns 0.
func Inode(fs.FileInfo) uint64 { return 0 }
