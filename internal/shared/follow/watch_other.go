//go:build !linux

package follow

import (
	"context"
	"errors"
	"os"
	"time"
)

// watcher has nothing to watch with on these systems.
type watcher struct{}

func (*watcher) watch(string, *os.File) (isNew bool, err error) {
	return false, errors.ErrUnsupported
}

func (*watcher) wait(context.Context, time.Duration) error { return errors.ErrUnsupported }

func (*watcher) close() {}
