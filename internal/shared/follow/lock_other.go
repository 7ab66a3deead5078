//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package follow

import (
	"errors"
	"os"
)

// lock fails: a state is not supported here.
func lock(*os.File) (locked bool, err error) {
	return false, errors.ErrUnsupported
}
