package listener

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"mbus/internal/shared/osfile"
)

const (
	// While another process starts to listen in the same directory, listenOnSocket tries again
	// after lockPause, for lockPatience.
	lockPause    = 10 * time.Millisecond
	lockPatience = 2 * time.Second
)

// socketListener is a listener on the path of a Unix socket.
type socketListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo // of the socket at path
}

// listenOnSocket listens on path. Before, it removes a socket that nobody answers at, and nothing
// else. The mode of the new socket is 0777 less the umask. The directory is locked meanwhile.
// Otherwise, of two brokers that start at once, the second could remove the socket of the first.
func listenOnSocket(path string) (Listener, error) {
	directory, err := lockDirectory(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer directory.Close()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	bound, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	bound.SetUnlinkOnClose(false) // Refuse removes path, if it is still this socket
	made, err := os.Lstat(path)
	if err != nil {
		bound.Close()
		return nil, err
	}
	return &socketListener{bound, path, made}, nil
}

// lockDirectory opens and locks a directory. It waits while another process has locked it.
func lockDirectory(path string) (directory *os.File, err error) {
	if directory, err = os.Open(path); err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPause) {
		err = osfile.Lock(directory)
		if err == nil {
			return directory, nil
		}
		if !errors.Is(err, osfile.ErrLocked) || time.Now().After(end) {
			directory.Close()
			return nil, fmt.Errorf("directory %s: %w", path, err)
		}
	}
}

// removeStale removes the socket at path if nobody answers at it. If something else is at path, the
// error says what.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %s: is not a socket, it was left as it is", path)
	}
	connection, err := net.Dial("unix", path)
	switch {
	case err == nil:
		connection.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case !errors.Is(err, syscall.EAGAIN): // a full backlog is an answer
		return fmt.Errorf("listen on %s: the socket there was left as it is: %w", path, err)
	}
	return fmt.Errorf("listen on %s: in use by another broker", path)
}

// Refuse removes the path, if it is still this socket, and shuts the socket down.
func (l *socketListener) Refuse() {
	if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.made) {
		os.Remove(l.path)
	}
	shutDown(l.UnixListener)
}
