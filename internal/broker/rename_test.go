//go:build unix

package broker

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/logfile"
)

// A file that is renamed while its first line is synced keeps its number. The file that is made in
// its place has the next one.
func TestRenameAfterTheHeader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	store := &store{path: path, synced: true}
	defer store.close()
	if err := store.open(); err != nil {
		t.Fatal(err)
	}
	rename(t, path, path+".1")
	syncs := 0
	store.observe = func(change string, _ []byte, _ int64) {
		if change == "sync" {
			syncs++
		}
		if change == "sync" && syncs == 2 { // the first is of the file before
			rename(t, path, path+".2")
		}
	}
	if _, err := store.look(0); err != nil {
		t.Fatal(err)
	}
	before, size := header(t, path+".2")
	want := logfile.Header{Log: before.Log, Number: 3, After: int64(size), Name: "log"}
	if after, _ := header(t, path); before.Number != 2 || after != want {
		t.Errorf("the headers are %+v and %+v, want %+v", before, after, want)
	}
}

// The log has a line about each torn line that was cut off, also of a file that is renamed then.
func TestCutOfAFileThatIsRenamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	writeFile(t, path, "2026/11/29 06:00:00 a whole line\n2026/11/29 06:00:00 torn")
	var lines []string
	store := &store{path: path, synced: true}
	defer store.close()
	store.notify = func(line string) { lines = append(lines, line) }
	store.observe = func(change string, _ []byte, _ int64) {
		if change == "sync" {
			store.observe = nil
			rename(t, path, path+".1")
		}
	}
	want := []string{"Broker: cut 24 bytes of a torn line off the end of the log"}
	if err := store.open(); err != nil || !slices.Equal(lines, want) {
		t.Errorf("the lines are %q, error %v", lines, err)
	}
}

// A reply waits while the log was renamed and can't be opened anew. It is sent when its message is
// in the new file.
func TestRotationWhileAReplyWaits(t *testing.T) {
	for _, sync := range []bool{false, true} {
		stored := newStored(t, func(config *BrokerConfig) {
			config.Interval, config.Timeout, config.Sync = 0, time.Minute, sync
		})
		stored.serve()
		stored.Accept(bustest.Payload("t", "before"), 1)
		rename(t, stored.path, stored.path+".1")
		if err := os.Mkdir(stored.path, 0o700); err != nil {
			t.Fatal(err)
		}
		connection := stored.Dial()
		connection.End(bustest.Payload("t", "waits"))
		bustest.Until(t, "the message to be queued", func() bool {
			return unwritten(stored.Broker) == 1
		})
		if err := os.Remove(stored.path); err != nil {
			t.Fatal(err)
		}
		reply := connection.Reply()
		got := bustest.Received(t, file(stored.path))["t"]
		if reply.Accepted != 1 || !slices.Equal(got, []string{"waits"}) {
			t.Errorf("sync %t: the reply is %+v, and the new file has %q", sync, *reply, got)
		}
	}
}
