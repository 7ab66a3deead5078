package consumer

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// What an earlier process has delivered after its position counts only for the same topics, and as
// long as the log still has those messages. Otherwise a line says that they may be delivered again.
func TestEarlier(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a state is not supported on Windows")
	}
	const stamp = "2026/11/29 12:00:00 "
	line := func(topic, data string) string {
		return stamp + "Received new message from topic '" + topic + "': '" + data + "'\n"
	}
	checksum := func(line string) uint32 {
		parser := logline.Parser{Sums: true}
		m, err := parser.Parse([]byte(line))
		if err != nil || m == nil {
			t.Fatal(line, err)
		}
		return m.Checksum
	}
	topics := []string{"a", "b"}
	before, one, two, three := line("a", "0"), line("a", "1"), line("b", "2"), line("a", "3")
	torn, other := stamp+"Received new mess\n", line("c", "2")
	delivered := []*started{
		{checksum: checksum(one)}, {checksum: checksum(two), delivered: true},
		{checksum: checksum(three), delivered: true},
	}
	saved := note{sum: doneSum(topics, delivered), done: []bool{false, true, true}}
	for name, test := range map[string]struct {
		topics []string
		lines  string
		counts bool
	}{
		"the same":             {topics, one + two + three + line("a", "4"), true},
		"other lines between":  {topics, one + stamp + "creating topic x\n" + other + two + three, true},
		"another first":        {topics, line("a", "x") + two + three, true}, // is not delivered
		"the topics in turn":   {[]string{"b", "a"}, one + two + three, true},
		"another topic":        {[]string{"a"}, one + two + three, false},
		"all topics":           {nil, one + two + three, false},
		"another second":       {topics, one + line("b", "x") + three, false},
		"a message too many":   {topics, one + line("a", "x") + two + three, false},
		"a torn one":           {topics, one + torn + three, false},
		"the last is missing":  {topics, one + two, false},
		"they are all missing": {topics, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mbus.log")
			if err := os.WriteFile(path, []byte(before+test.lines), 0o600); err != nil {
				t.Fatal(err)
			}
			log := follow.New(path, func(line string) { t.Error(line) })
			defer log.Close()
			if _, err := log.Next(); err != nil {
				t.Fatal(err)
			}
			var reports []string
			config := &Config{
				Log: path, State: "s", Topics: test.topics,
				Report: func(line string) { reports = append(reports, line) },
			}
			c := &Consumer{config: config}
			got, err := c.earlier(t.Context(), log.Position(), saved)
			const report = "messages after the position may be delivered again: " +
				"the topics or the log are not those of s"
			said := strings.Join(reports, "\n")
			switch {
			case err != nil:
				t.Fatal(err)
			case test.counts && (len(got) != 3 || got[0].delivered || !got[2].delivered || said != ""):
				t.Errorf("the earlier messages are %v: %s", got, said)
			case !test.counts && (got != nil || said != report):
				t.Errorf("the earlier messages are %v: %s, want none: %s", got, said, report)
			}
		})
	}
}
