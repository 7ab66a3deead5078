//go:build unix

package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mbus/internal/shared/bustest"
)

// metrics returns the counts in a file of counts, by name without mbus_. It fails the test unless
// messages written and unwritten add up to those accepted.
func metrics(t *testing.T, path string) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for _, found := range regexp.MustCompile(`(?m)^mbus_(\w+) (\d+)$`).
		FindAllStringSubmatch(file(path).String(), -1) {
		counts[found[1]], _ = strconv.Atoi(found[2])
	}
	accepted, written := counts["messages_accepted_total"], counts["messages_written_total"]
	if len(counts) != 10 || accepted != written+counts["unwritten_messages"] {
		t.Errorf("%s is incomplete or does not add up: %v", path, counts)
	}
	return counts
}

// isClosed reports whether a channel on which nothing is sent is closed.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}

// A broker writes its counts at the start and at the end, in a file that everybody may read and
// that promtool takes. SIGUSR1 has no effect.
func TestMetrics(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "broker.prom")
	const script = `umask 077; exec "$0" -pport 0 -interval 1h -metrics "$1"`
	broker := startCommand(t,
		exec.Command("sh", "-c", script, filepath.Join(binaries, "broker"), path))
	bustest.Until(t, "the counts", func() bool { return file(path).String() != "" })
	if got := metrics(t, path); got["messages_accepted_total"] != 0 || got["topics"] != 0 ||
		got["unwritten_bytes_limit"] != 256<<20 || got["start_time_seconds"] == 0 {
		t.Errorf("at the start the counts are %v", got)
	}
	broker.Signal(syscall.SIGUSR1)
	broker.Accept(bustest.Payload("t", "1", "2", "3"), 3)
	broker.Refuse("\xc0", "message 1: is nil, must be a map of Topic and Data")
	broker.stop()
	got := metrics(t, path)
	for name, want := range map[string]int{
		"payloads_accepted_total": 1, "payloads_refused_total": 1, "messages_accepted_total": 3,
		"messages_written_total": 3, "unwritten_bytes": 512 + 1, "topics": 1, "log_failing": 0,
	} {
		if got[name] != want {
			t.Errorf("at the end %s is %d, want %d", name, got[name], want)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("the file's mode is %v, %v, want 0644", info.Mode(), err)
	}
	if entries, err := os.ReadDir(directory); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v, want one file", entries, err)
	}
	page := bustest.Read(t, "../build/package/man/mbus-broker.8")
	for name := range got {
		if !strings.Contains(page, "mbus_"+name) {
			t.Errorf("the manual page does not name mbus_%s", name)
		}
	}
	promtool := exec.Command(tool(t, "promtool"), "check", "metrics")
	promtool.Stdin = strings.NewReader(file(path).String())
	if output, err := promtool.CombinedOutput(); err != nil || len(output) > 0 {
		t.Errorf("promtool: %v\n%s", err, output)
	}
}

// A broker does not replace a file that is not its own. It says so in one line.
func TestMetricsOfSomebodyElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte("listen = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, 1, "broker: -metrics "+path+": is not a file of counts, it was left as it is\n",
		"broker", "-pport", "0", "-metrics", path)
	if got := file(path).String(); got != "listen = 1\n" {
		t.Errorf("the file has %q", got)
	}
	expect(t, 2, `broker: invalid value "" for flag -metrics: must be a file (see broker -h)`+"\n",
		"broker", "-metrics", "")
}
