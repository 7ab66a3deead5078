package bustest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"mbus/internal/shared/logfile"
)

// FirstLine returns the line with which a broker begins the file of a log at path, or nothing if
// the file has a byte. The number is after that of the last file beside it. If there is none, the
// log is a new one.
func FirstLine(t testing.TB, path string) string {
	t.Helper()
	list, err := logfile.NewList(path)
	if err != nil {
		t.Fatal(err)
	}
	if named := list.Named; named != nil && named.Info.Size() > 0 {
		return ""
	}
	header := logfile.Header{Log: list.Log(0), Number: 1, Name: filepath.Base(path)}
	if header.Log == 0 {
		header.Log = logfile.NewLog()
	}
	for _, file := range list.Of(header.Log, 1, logfile.MaxNumber) {
		text, err := os.ReadFile(file.Path)
		if err != nil {
			t.Fatal(err)
		}
		header.Number, header.After = file.Header.Number+1, int64(len(text))
	}
	return string(header.Append(nil, time.Now()))
}
