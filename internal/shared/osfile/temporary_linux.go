package osfile

import (
	"os"
	"syscall"
)

// createUnnamed creates a file that never has a name; see O_TMPFILE in open(2). The value is the
// one of asm-generic/fcntl.h. Package syscall has no name for it.
func createUnnamed(directory string) (*os.File, error) {
	const temporary = 0o20000000 | syscall.O_DIRECTORY
	return os.OpenFile(directory, os.O_RDWR|temporary, 0o600)
}
