package logfile

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file that is renamed between the look at the names and the look at the files is hidden from
// both its names. The next look finds it.
func TestRenameWhileListing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mbus.log")
	for number, suffix := range map[int64]string{1: ".1", 2: ""} {
		line := Header{Log: 1, Number: number, Name: "mbus.log"}.Append(nil, time.Now())
		if err := os.WriteFile(path+suffix, line, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renames := [][2]string{{".1", ".2"}, {"", ".1"}}
	list, err := new(Lister).list(path, func(path string) ([]string, error) {
		found, err := suffixes(path)
		for _, names := range renames {
			if err := os.Rename(path+names[0], path+names[1]); err != nil {
				t.Fatal(err)
			}
		}
		renames = nil
		return found, err
	})
	if err != nil {
		t.Fatal(err)
	}
	for number, suffix := range map[int64]string{1: ".2", 2: ".1"} {
		files := list.Of(1, number, number)
		if len(files) != 1 || filepath.Ext(files[0].Path) != suffix {
			t.Errorf("file %d is %+v, want %s", number, files, suffix)
		}
	}
}
