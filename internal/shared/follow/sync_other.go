//go:build !linux

package follow

import "os"

// syncData makes file durable.
func syncData(file *os.File) error {
	return file.Sync()
}
