//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package osfile

import (
	"errors"
	"os"
	"syscall"
)

// Lock locks file until it is closed or the process ends; see flock(2). The lock is on the
// file itself and not on its name. Lock does not wait: the error is ErrLocked if the file is
// locked already. On systems without flock, the error is errors.ErrUnsupported.
func Lock(file *os.File) error {
	err := control(file, func(descriptor int) error {
		return syscall.Flock(descriptor, syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// syncDirectory syncs an open directory. It ignores the error of file systems that can't sync
// directories.
func syncDirectory(directory *os.File) error {
	err := directory.Sync()
	if errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}

// control calls do with the file's descriptor, and again whenever a signal interrupts it.
func control(file *os.File, do func(descriptor int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	outer := raw.Control(func(descriptor uintptr) {
		for {
			if err = do(int(descriptor)); err != syscall.EINTR {
				return
			}
		}
	})
	if outer != nil {
		return outer
	}
	return err
}
