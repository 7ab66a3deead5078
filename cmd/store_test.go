//go:build unix

package cmd_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// startStore starts a broker with the flag -log path, on a free port. Its log is the file, not its
// standard error.
func startStore(t *testing.T, path string, arguments ...string) *daemon {
	t.Helper()
	return startStoreAt(t, bustest.FreeAddress(t), path, arguments...)
}

// startStoreAt is like startStore, on the port of address.
func startStoreAt(t *testing.T, address, path string, arguments ...string) *daemon {
	t.Helper()
	return startStoreCommand(t, address, path, command("broker", arguments...))
}

// startStoreCommand is like startStoreAt, for a command that runs a broker. It appends the flags
// for the port and the log.
func startStoreCommand(t *testing.T, address, path string, command *exec.Cmd) *daemon {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	command.Args = append(command.Args, "-pport", port, "-log", path)
	// The listening line in the log may be an earlier broker's, and a test may rename the log.
	daemon := startLogged(t, command, constant("Broker: listening on "+address+"\n"))
	daemon.Log = file(path)
	bustest.Until(t, "the broker", func() bool {
		reply, err := daemon.Post("") // the broker listens before it opens the log
		select {
		case <-daemon.Ended:
			t.Fatalf("the broker has ended: %s", daemon.Stderr)
		default:
		}
		return err == nil && reply.Error == ""
	})
	return daemon
}

// starter starts a broker whose log is the file path.
type starter func(t *testing.T, path string, arguments ...string) *daemon

// starters has the two ways to write the log to a file.
var starters = map[string]starter{
	"redirected": startInFile,
	"-log":       startStore,
}

// eachLog runs test with each of the starters, while other tests run.
func eachLog(t *testing.T, test func(t *testing.T, start starter)) {
	t.Parallel()
	for name, start := range starters {
		t.Run(name, func(t *testing.T) { test(t, start) })
	}
}

// rotations is a log that the test rotates. The rotated files are FILE.1, FILE.2 and so on, with
// the oldest first.
type rotations struct {
	path  string
	count int // rotated files
}

// rotate renames the log, if it exists.
func (log *rotations) rotate(t *testing.T) {
	t.Helper()
	switch err := os.Rename(log.path, fmt.Sprintf("%s.%d", log.path, log.count+1)); {
	case err == nil:
		log.count++
	case !errors.Is(err, fs.ErrNotExist):
		t.Error(err)
	}
}

// awaitFile waits until the broker has created the log again.
func (log *rotations) awaitFile(t *testing.T) {
	t.Helper()
	bustest.Until(t, "a new file", func() bool {
		_, err := os.Stat(log.path)
		return err == nil
	})
}

// files returns the texts of the files that exist, the oldest first and the log last.
func (log *rotations) files() (texts []string) {
	paths := []string{log.path}
	for i := log.count; i > 0; i-- {
		paths = append([]string{fmt.Sprintf("%s.%d", log.path, i)}, paths...)
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}

// joinFiles returns the joined texts of files. It fails the test unless each ends with a whole
// line.
func joinFiles(t *testing.T, texts []string) string {
	t.Helper()
	for i, text := range texts {
		if text != "" && !strings.HasSuffix(text, "\n") {
			t.Errorf("file %d of %d ends with %q, want a whole line",
				i+1, len(texts), text[max(0, len(text)-100):])
		}
	}
	return strings.Join(texts, "")
}
