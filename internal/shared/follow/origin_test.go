package follow_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mbus/internal/shared/follow"
)

// source is a Follower or a Reader.
type source interface {
	Next() (line []byte, err error)
	Origin() (follow.Origin, error)
}

// newReader returns a Reader of text. It fails the test if the Reader reports anything.
func newReader(t *testing.T, text string) *follow.Reader {
	return follow.NewReader(strings.NewReader(text), func(line string) { t.Error(line) })
}

// origins returns the origins of all lines that source has.
func origins(t *testing.T, source source) (all []string) {
	t.Helper()
	for {
		line, err := source.Next()
		if line == nil {
			if reader, isReader := source.(*follow.Reader); isReader && err == nil {
				reader.Wait(t.Context())
				continue
			}
			return all
		}
		origin, err := source.Origin()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(origin.Append(nil)))
	}
}

// A line has the same origin in the log, in a copy, after a rename, and in a stream.
func TestOrigin(t *testing.T) {
	const (
		first  = "2026/11/29 06:00:00 Broker: file 1 of log 5b1b30b6c2830ccd: mbus.log\n"
		second = "2026/11/29 07:00:00 Broker: file 2 of log 5b1b30b6c2830ccd, " +
			"after 74 bytes of file 1: mbus.log\n"
	)
	one, two := first+"a\nbc\n", second+strings.Repeat("d", 300<<10)+"\ne\n"
	want := []string{
		"5b1b30b6c2830ccd-1-0", "5b1b30b6c2830ccd-1-69", "5b1b30b6c2830ccd-1-71",
		"5b1b30b6c2830ccd-2-0", "5b1b30b6c2830ccd-2-95", "5b1b30b6c2830ccd-2-307296",
	}
	path := filepath.Join(t.TempDir(), "mbus.log")
	for name, text := range map[string]string{path + ".1": one, path: two} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := follow.New(path, func(string) {})
	defer log.Close()
	for name, source := range map[string]source{
		"log": log, "stream": newReader(t, one+two),
	} {
		got := origins(t, source)
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// Without a header, the first line takes the place of the log's id, wherever the reader begins.
func TestOriginWithoutHeader(t *testing.T) {
	begin := strings.Repeat("x", 10_000)
	sum := sha256.Sum256([]byte(begin))
	want := hex.EncodeToString(sum[:8]) + "-0-10001"
	path := filepath.Join(t.TempDir(), "mbus.log")
	if err := os.WriteFile(path, []byte(begin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := follow.New(path, func(string) {})
	defer log.Close()
	end, err := log.End()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(begin+"\na\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log.Seek(end)
	stream := newReader(t, begin+"\na\n")
	for _, got := range [][]string{origins(t, log), origins(t, stream)[1:]} {
		if len(got) != 1 || got[0] != want {
			t.Errorf("%q, want %s", got, want)
		}
	}
	// Another file with the name has another first line.
	if err := os.WriteFile(path, []byte("b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log.Seek(follow.Position{})
	sum = sha256.Sum256([]byte("b"))
	want = hex.EncodeToString(sum[:8]) + "-0-0"
	if got := origins(t, log); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %s", got, want)
	}
}

// A stream that goes on with another place of the same log than the next is reported.
func TestGapsOfStream(t *testing.T) {
	header := func(rest string) string {
		return "2026/11/29 06:00:00 Broker: file " + rest + ": bus\n"
	}
	one := header("1 of log 5b1b30b6c2830ccd")
	two := header("2 of log 5b1b30b6c2830ccd, after 68 bytes of file 1")
	three := header("3 of log 5b1b30b6c2830ccd, after 92 bytes of file 2")
	other := header("3 of log 5b1b30b6c2830cce, after 9 bytes of file 2")
	for name, test := range map[string]struct{ stream, want string }{
		"whole":           {one + "abc\n" + two + "c\n" + three, ""},
		"from the second": {two + "c\n" + three, ""},
		"from a line":     {"abc\n" + two + "c\n" + three, ""},
		"another log":     {one + "abc\n" + other, ""},
		"a line is missing": {
			one + two + "c\n",
			"after 64 bytes of file 1 comes file 2, which follows 68 bytes of file 1",
		},
		"a line too many": {
			one + "abc\nd\n" + two,
			"after 70 bytes of file 1 comes file 2, which follows 68 bytes of file 1",
		},
		"a file is missing": {
			one + "abc\n" + three,
			"after 68 bytes of file 1 comes file 3, which follows 92 bytes of file 2",
		},
		"a file comes twice":   {one + "abc\n" + one, "after 68 bytes of file 1 comes file 1"},
		"the newer file first": {two + "c\n" + one, "after 92 bytes of file 2 comes file 1"},
	} {
		t.Run(name, func(t *testing.T) {
			var reports []string
			reader := follow.NewReader(strings.NewReader(test.stream), func(line string) {
				reports = append(reports, line)
			})
			origins(t, reader)
			if test.want != "" {
				test.want += ": lines are missing, repeated or out of order"
			}
			if got := strings.Join(reports, "\n"); got != test.want {
				t.Errorf("it reported %q, want %q", got, test.want)
			}
		})
	}
}
