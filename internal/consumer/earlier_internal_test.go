package consumer

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

const stamp = "2026/11/29 12:00:00 "

// lineOf returns the line of a message in a log.
func lineOf(topic, data string) string {
	return stamp + "Received new message from topic '" + topic + "': '" + data + "'\n"
}

// checksumOf returns the checksum of a message's line.
func checksumOf(t *testing.T, line string) uint32 {
	t.Helper()
	parser := logline.Parser{Sums: true}
	m, err := parser.Parse([]byte(line))
	if err != nil || m == nil {
		t.Fatal(line, err)
	}
	return m.Checksum
}

// What an earlier process has delivered after its position counts only for the same topics, and as
// long as the log still has those messages. Otherwise a line says that they may be delivered again.
func TestEarlier(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a state is not supported on Windows")
	}
	topics := []string{"a", "b"}
	one, two, three := lineOf("a", "1"), lineOf("b", "2"), lineOf("a", "3")
	torn, others := stamp+"Received new mess\n", stamp+"creating topic x\n"+lineOf("c", "2")
	delivered := []*started{
		{checksum: checksumOf(t, one)}, {checksum: checksumOf(t, two), delivered: true},
		{checksum: checksumOf(t, three), delivered: true},
	}
	saved := note{sum: doneSum(topics, delivered), done: []bool{false, true, true}}
	for name, test := range map[string]struct {
		topics []string
		lines  string
		counts bool
	}{
		"the same":             {topics, one + two + three + lineOf("a", "4"), true},
		"other lines between":  {topics, one + others + two + three, true},
		"another first":        {topics, lineOf("a", "x") + two + three, true}, // is not delivered
		"the topics in turn":   {[]string{"b", "a"}, one + two + three, true},
		"another topic":        {[]string{"a"}, one + two + three, false},
		"all topics":           {nil, one + two + three, false},
		"another second":       {topics, one + lineOf("b", "x") + three, false},
		"a message too many":   {topics, one + lineOf("a", "x") + two + three, false},
		"a torn one":           {topics, one + torn + three, false},
		"the last is missing":  {topics, one + two, false},
		"they are all missing": {topics, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, report := earlierIn(t, test.lines, test.topics, saved)
			const again = "messages after the position may be delivered again: " +
				"the topics or the log are not those of s"
			switch {
			case !test.counts:
				if got != nil || report != again {
					t.Errorf("the earlier messages are %v: %s, want none: %s", got, report, again)
				}
			case len(got) != 3 || got[0].delivered || !got[2].delivered || report != "":
				t.Errorf("the earlier messages are %v: %s", got, report)
			}
		})
	}
}

// earlierIn returns what Consumer.earlier returns and reports, in a log with these lines after the
// position.
func earlierIn(
	t *testing.T, lines string, topics []string, saved note,
) (messages []*started, report string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mbus.log")
	if err := os.WriteFile(path, []byte(lineOf("a", "0")+lines), 0o600); err != nil {
		t.Fatal(err)
	}
	log := follow.New(path, func(line string) { t.Error(line) })
	defer log.Close()
	if _, err := log.Next(); err != nil {
		t.Fatal(err)
	}
	c := &Consumer{config: &Config{
		Log: path, State: "s", Topics: topics, Report: func(line string) { report += line },
	}}
	messages, err := c.earlier(t.Context(), log.Position(), saved)
	if err != nil {
		t.Fatal(err)
	}
	return messages, report
}
