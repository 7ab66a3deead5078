package follow

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mbus/internal/shared/logfile"
)

// A file whose lines were returned is synced before the first line of the next file is: a
// position in the next file promises that all before it is on disk.
func TestSyncBeforeTheNextFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mbus.log")
	follower := New(path, func(line string) { t.Error(line) })
	defer follower.Close()
	var synced []string
	follower.syncFile = func(file *os.File) error {
		text, err := os.ReadFile(fmt.Sprintf("/dev/fd/%d", file.Fd()))
		synced = append(synced, string(text))
		return err
	}
	expect := func(want string) {
		t.Helper()
		if line, err := follower.Next(); string(line) != want || err != nil {
			t.Errorf("read %q, error %v, want %q", line, err, want)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	header := func(number, after int64) string {
		header := logfile.Header{Log: 1, Number: number, After: after, Name: "mbus.log"}
		return string(header.Append(nil, time.Now()))
	}
	first := header(1, 0)
	second := header(2, int64(len(first+"old\n")))
	write(first + "old\n")
	expect(first)
	expect("old\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(second + "new\n")
	expect(second)
	if len(synced) != 1 || synced[0] != first+"old\n" {
		t.Errorf("synced %q", synced)
	}
}
