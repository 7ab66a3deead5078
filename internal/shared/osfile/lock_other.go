//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package osfile

import (
	"errors"
	"os"
)

// Lock returns errors.ErrUnsupported, because these systems have no flock.
func Lock(*os.File) error { return errors.ErrUnsupported }

// syncDirectory does nothing.
func syncDirectory(*os.File) error { return nil }
