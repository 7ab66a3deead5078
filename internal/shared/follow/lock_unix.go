//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package follow

import (
	"os"
	"syscall"
)

// lock locks file until it is closed. It does not wait for another's lock: locked
// is false then.
func lock(file *os.File) (locked bool, err error) {
	for {
		switch err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
		case syscall.EINTR:
		case syscall.EWOULDBLOCK:
			return false, nil
		default:
			return err == nil, os.NewSyscallError("flock", err)
		}
	}
}
