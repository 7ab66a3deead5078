package follow

import (
	"io/fs"
	"os"
	"syscall"
)

// syncData makes the bytes of file durable, and its size.
func syncData(file *os.File) error {
	for {
		switch err := syscall.Fdatasync(int(file.Fd())); err {
		case nil:
			return nil
		case syscall.EINTR:
		default:
			return &fs.PathError{Op: "fdatasync", Path: file.Name(), Err: err}
		}
	}
}
