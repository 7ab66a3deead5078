package cmd_test

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
)

// With -h, a command prints its usage, in which it has the name that it was run by. The tests of
// each command compare that text with the flags.
func TestUsage(t *testing.T) {
	for name, arguments := range map[string]string{
		"broker":   "[flags]",
		"producer": "-topic TOPIC [-message TEXT | -lines] | -ping [flags]",
		"consumer": "[-log FILE [-state FILE]] [-topic T]... [flags] [-- COMMAND [ARG]...]",
	} {
		status, usage, stderr := run(t, name, "-h")
		first, _, _ := strings.Cut(usage, "\n")
		if status != 0 || stderr != "" || first != "usage: "+name+" "+arguments ||
			strings.Contains(usage, "mbus-") {
			t.Errorf("%s -h ended with status %d: %s%s", name, status, usage, stderr)
		}
	}
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

func TestBrokerMisuse(t *testing.T) {
	const size = "must be a count of bytes, at least 1, such as 1000, 64KiB, 16MiB or 1GiB"
	for _, test := range []struct {
		want      string
		arguments []string
	}{
		{`-phost "": must be a host`, []string{"-phost", ""}},
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
		{`unexpected argument "orders.csv": -lines reads standard input, put < before a file`,
			[]string{"-lines", "orders.csv"}},
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

// The commands refuse a host that is more than a host, such as a host with a port.
func TestHostIsAlone(t *testing.T) {
	for host, line := range map[string]string{
		"localhost:9990": "must be a name or an address alone, such as localhost or ::1, " +
			"or the path of a socket; the port has a flag of its own",
		"http://localhost": "must be a host alone, or the path of a socket, and not a URL",
	} {
		line = `-host "` + host + `": ` + line
		expectMisuse(t, line, "-topic", "t", "-host", host)
		expect(t, 2, "broker: -p"+line[1:]+" (see broker -h)\n", "broker", "-phost", host)
	}
}
