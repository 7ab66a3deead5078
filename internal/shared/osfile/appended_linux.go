package osfile

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// OpenAppended opens a file for reading that is open for appending. It returns nil if file is not
// a regular file opened for appending, or if the process may not read it.
func OpenAppended(file *os.File) *os.File {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	path, isAppending := "", false
	err = control(file, func(descriptor int) error {
		flags, _, errno := syscall.Syscall(
			syscall.SYS_FCNTL, uintptr(descriptor), syscall.F_GETFL, 0)
		path = fmt.Sprintf("/proc/self/fd/%d", descriptor)
		isAppending = errno == 0 && flags&syscall.O_APPEND != 0
		return nil
	})
	if err != nil || !isAppending {
		return nil
	}
	reader, err := os.Open(path)
	if err != nil {
		return nil
	}
	if same, err := reader.Stat(); err != nil || !os.SameFile(info, same) {
		reader.Close()
		return nil
	}
	return reader
}

// Inode returns the number of a file in its file system.
func Inode(info fs.FileInfo) uint64 {
	return info.Sys().(*syscall.Stat_t).Ino
}
