package cmd_test

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// The usage that -h prints fits a terminal. It has four parts: the synopsis, the flags in order,
// the exit statuses, and two examples.
func TestUsage(t *testing.T) {
	flagLine := regexp.MustCompile(`(?m)^  (-.*?)  `)
	for name, want := range map[string]struct {
		synopsis string
		flags    []string
		statuses int
	}{
		"broker": {"[flags]", []string{
			"-log FILE", "-interval DURATION", "-sync", "-phost HOST", "-pport PORT",
			"-timeout DURATION", "-max-payload BYTES", "-max-queued BYTES", "-version", "-h",
		}, 3},
		"producer": {"-topic TOPIC [-message TEXT | -lines] | -ping [flags]", []string{
			"-topic TOPIC", "-message TEXT", "-lines", "-host HOST", "-port PORT",
			"-retry DURATION", "-timeout DURATION", "-ping", "-version", "-h",
		}, 4},
		"consumer": {
			"[-log FILE [-state FILE]] [-topic T]... [flags] [-- COMMAND [ARG]...]", []string{
				"-log FILE", "-topic TOPIC", "-state FILE", "-retry DURATION", "-format FORMAT",
				"-from PLACE", "-end", "-count NUMBER", "-seek PLACE", "-version",
				"-h",
			}, 3,
		},
	} {
		status, usage, stderr := run(t, name, "-h")
		parts := strings.Split(usage, "\n\n")
		if status != 0 || stderr != "" || len(parts) != 4 {
			t.Fatalf("%s -h ended with status %d and printed %d parts, want 0 and 4:\n%s%s",
				name, status, len(parts), usage, stderr)
		}
		if parts[0] != "usage: "+name+" "+want.synopsis {
			t.Errorf("%s: the synopsis is %q, want %q", name, parts[0], want.synopsis)
		}
		var flags []string
		for _, match := range flagLine.FindAllStringSubmatch(parts[1], -1) {
			flags = append(flags, match[1])
		}
		if !slices.Equal(flags, want.flags) {
			t.Errorf("%s: the flags are %q, want %q", name, flags, want.flags)
		}
		statuses := regexp.MustCompile(`(?m)^  \d  \S`).FindAllString(parts[2], -1)
		examples := regexp.MustCompile(`(?m)^  .*\b`+name+` -`).FindAllString(parts[3], -1)
		if len(statuses) != want.statuses || len(examples) != 2 {
			t.Errorf("%s: the usage has %d statuses and %d examples, want %d and 2:\n%s",
				name, len(statuses), len(examples), want.statuses, usage)
		}
		checkSize(t, usage)
	}
}

// checkSize fails the test unless a usage fits into 40 lines of 100 columns.
func checkSize(t *testing.T, usage string) {
	t.Helper()
	if count := strings.Count(usage, "\n"); count > 40 {
		t.Errorf("the usage has %d lines, want at most 40:\n%s", count, usage)
	}
	for line := range strings.Lines(usage) {
		if len(line) > 100+1 {
			t.Errorf("a line has %d columns, want at most 100: %s", len(line)-1, line)
		}
	}
}

// The usage of each command shows the default of each flag that has one.
func TestDefaults(t *testing.T) {
	for command, defaults := range map[string]map[string]string{
		"broker": {
			"-phost": "127.0.0.1", "-pport": "9990", "-interval": "3s", "-timeout": "5s",
			"-max-payload": "16MiB", "-max-queued": "256MiB",
		},
		"producer": {"-host": "127.0.0.1", "-port": "9990", "-timeout": "30s", "-retry": "0s"},
		"consumer": {"-format": "lines", "-from": "start", "-retry": "0s"},
	} {
		_, usage, _ := run(t, command, "-h")
		printed := printedDefaults(usage)
		for name, value := range defaults {
			if printed[name] != value {
				t.Errorf("%s: the default of %s is %q in the usage, want %q:\n%s",
					command, name, printed[name], value, usage)
			}
		}
	}
}

// printedDefaults returns the defaults in a usage, by the flag's name. A flag without a default is
// not among them.
func printedDefaults(usage string) map[string]string {
	defaults := make(map[string]string)
	entry := regexp.MustCompile(`(?m)^  (-\S+).*(?:\n    .*)*`)
	value := regexp.MustCompile(`\(default\s+(.*?)\)$`)
	for _, flag := range entry.FindAllStringSubmatch(usage, -1) {
		if match := value.FindStringSubmatch(flag[0]); match != nil {
			defaults[flag[1]] = match[1]
		}
	}
	return defaults
}

func TestVersion(t *testing.T) {
	for _, name := range []string{"broker", "producer", "consumer"} {
		status, stdout, stderr := run(t, name, "-version")
		want := regexp.MustCompile(`^mbus ` + name + ` \S+, go\S+\n$`)
		if status != 0 || stderr != "" || !want.MatchString(stdout) {
			t.Errorf("%s -version ended with status %d and printed %q: %s",
				name, status, stdout, stderr)
		}
	}
}

// The README has the usage that each command prints with -h.
func TestReadmeUsage(t *testing.T) {
	reference := bustest.Section(t, "../README.md", "Reference")
	for _, name := range []string{"broker", "producer", "consumer"} {
		status, usage, _ := run(t, name, "-h")
		if status != 0 || !strings.Contains(reference, "\n```\n"+usage+"```\n") {
			t.Errorf("%s -h ended with status %d, or the README does not have this usage:\n%s",
				name, status, usage)
		}
	}
}

func TestBrokerMisuse(t *testing.T) {
	const size = "must be a count of bytes, at least 1, such as 1000, 64KiB, 16MiB or 1GiB"
	for _, test := range []struct {
		want      string
		arguments []string
	}{
		{`-phost "": must be a host, 0.0.0.0 for all interfaces`, []string{"-phost", ""}},
		{`-pport "70000": must be a number from 0 to 65535, 0 for a free port`,
			[]string{"-pport", "70000"}},
		{`invalid value "3" for flag -interval: must be a duration, such as 5s or 100ms`,
			[]string{"-interval", "3"}},
		{`-interval -1s: must be a duration of at least 0, such as 3s`,
			[]string{"-interval", "-1s"}},
		{`invalid value "x" for flag -timeout: must be a duration, such as 5s or 100ms`,
			[]string{"-timeout", "x"}},
		{`-timeout 0s: must be a duration above 0, such as 5s`, []string{"-timeout", "0"}},
		{`invalid value "16M" for flag -max-payload: ` + size, []string{"-max-payload", "16M"}},
		{`invalid value "0" for flag -max-payload: ` + size, []string{"-max-payload", "0"}},
		{`invalid value "16GB" for flag -max-queued: ` + size, []string{"-max-queued", "16GB"}},
		{`invalid value "-1" for flag -max-queued: ` + size, []string{"-max-queued", "-1"}},
		{fmt.Sprintf(`invalid value "9999999999GiB" for flag -max-queued: `+
			`must be at most %d bytes`, math.MaxInt), []string{"-max-queued", "9999999999GiB"}},
		{fmt.Sprintf(`invalid value "9999999999999999999" for flag -max-queued: `+
			`must be at most %d bytes`, math.MaxInt),
			[]string{"-max-queued", "9999999999999999999"}},
		{`flag provided but not defined: -port: use -pport`, []string{"-port", "1"}},
		{`flag provided but not defined: -host: use -phost`, []string{"-host=::1"}},
		{`flag needs an argument: -pport`, []string{"-pport"}},
		{`unexpected argument "start"`, []string{"-pport", "0", "start"}},
		{`flag provided but not defined: -a\nb`, []string{"-a\nb"}},
	} {
		expect(t, 2, "broker: "+test.want+" (see broker -h)\n", "broker", test.arguments...)
	}
}

func TestProducerMisuse(t *testing.T) {
	const missing = `-topic is missing or empty: must be the topic to send to`
	message := func(flags ...string) []string {
		return append([]string{"-topic", "t", "-message", "x"}, flags...)
	}
	for _, test := range []struct {
		want      string
		arguments []string
	}{
		{missing, []string{"-message", "x"}},
		{missing, []string{"-message", "x", "-topic", ""}},
		{`-message and -lines: must be one of them`,
			[]string{"-topic", "t", "-message", "", "-lines"}},
		{`-host "": must be a host`, message("-host", "")},
		{`-port "0": must be a number from 1 to 65535`, message("-port", "0")},
		{`-timeout 0s: must be a duration above 0, such as 30s`, message("-timeout", "0")},
		{`invalid value "1" for flag -timeout: must be a duration, such as 5s or 100ms`,
			message("-timeout", "1")},
		{`-retry -1s: must be a duration of at least 0, such as 30s`,
			[]string{"-topic", "t", "-retry", "-1s"}},
		{`invalid value "x" for flag -retry: must be a duration, such as 5s or 100ms`,
			[]string{"-topic", "t", "-retry", "x"}},
		{`flag provided but not defined: -pport: use -port`, []string{"-pport", "1"}},
		{`flag provided but not defined: -phost: use -host`, []string{"--phost", "::1"}},
		{`flag provided but not defined: -log`, []string{"-log", "x"}},
		{`unexpected argument "orders.csv": use < orders.csv`, []string{"-lines", "orders.csv"}},
		{`unexpected argument "it's.csv": use < 'it'\''s.csv'`,
			[]string{"-lines", "it's.csv", "-topic", "t"}},
		{`unexpected argument "a"`,
			[]string{"-topic", "t", "-message", "look", "a", "new", "order"}},
	} {
		expectMisuse(t, test.want, test.arguments...)
	}
}

// silentInput returns a pipe that has no data and does not end.
func silentInput(t *testing.T) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reader.Close()
		writer.Close()
	})
	return reader
}

// expectMisuse fails the test unless a producer ends with status 2 and this line on standard error.
// A producer that reads its standard input does not end.
func expectMisuse(t *testing.T, line string, arguments ...string) {
	t.Helper()
	producer := command("producer", arguments...)
	producer.Stdin = silentInput(t)
	status, stdout, stderr := finish(t, producer)
	want := "producer: " + line + " (see producer -h)\n"
	if status != 2 || stderr != want || stdout != "" {
		t.Errorf("producer %.40q ended with status %d, standard output %q and standard error %q, "+
			"want 2, nothing and %q", arguments, status, stdout, stderr, want)
	}
}

// The producer refuses an invalid topic before it reads standard input.
func TestTopicIsCheckedFirst(t *testing.T) {
	for topic, line := range map[string]string{
		"t\n":                    "-topic is not printable UTF-8 at byte 2",
		"\xff":                   "-topic is not printable UTF-8 at byte 1",
		strings.Repeat("t", 300): "-topic is 300 bytes long, must be 1 to 255",
	} {
		expectMisuse(t, line, "-topic", topic)
		expectMisuse(t, line, "-topic", topic, "-lines")
	}
}

// The producer refuses a -host that is more than a host, such as a host with a port.
func TestHostIsAlone(t *testing.T) {
	for _, host := range []string{"localhost:9990", "http://localhost", "[::1]"} {
		line := `-host "` + host + `": must be a name or an address alone, ` +
			`such as localhost or ::1; the port goes to -port`
		expectMisuse(t, line, "-topic", "t", "-host", host)
	}
}
