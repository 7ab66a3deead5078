package bustest

import (
	"flag"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A flagText is what a text says about a flag.
type flagText struct {
	argument string // the word for its value; empty: it takes none
	fallback string // its default, as the flag shows it; empty: none is shown
}

// The parts of the answer to -h.
var (
	helpFlag    = regexp.MustCompile(`(?m)^  -(\S+)(?: ([A-Z]+))?  +(.*(?:\n    .*)*)`)
	helpDefault = regexp.MustCompile(`\(default\s+(\S+)\)`)
	helpStatus  = regexp.MustCompile(`(?m)^  (\d)  (.*)`)
)

// parseHelp returns the flags in help, by name, and the meanings of the exit statuses, by number.
func parseHelp(help string) (flags map[string]flagText, statuses map[string]string) {
	flags, statuses = make(map[string]flagText), make(map[string]string)
	for _, entry := range helpFlag.FindAllStringSubmatch(help, -1) {
		found := flagText{argument: entry[2]}
		if match := helpDefault.FindStringSubmatch(entry[3]); match != nil {
			found.fallback = match[1]
		}
		flags[entry[1]] = found
	}
	for _, entry := range helpStatus.FindAllStringSubmatch(help, -1) {
		statuses[entry[1]] = entry[2]
	}
	return flags, statuses
}

// CheckHelp fails the test unless help, the answer to -h, has each of flags with its default, -h
// and -version, and no other flag, and fits into 48 lines of 100 columns.
func CheckHelp(t testing.TB, help string, flags *flag.FlagSet) {
	t.Helper()
	shown, _ := parseHelp(help)
	want := []string{"h", "version"}
	flags.VisitAll(func(each *flag.Flag) {
		want = append(want, each.Name)
		boolean, _ := each.Value.(interface{ IsBoolFlag() bool })
		takesNone := boolean != nil && boolean.IsBoolFlag()
		fallback := each.DefValue
		if takesNone && fallback == "false" {
			fallback = ""
		}
		text := shown[each.Name]
		if text.fallback != fallback || (text.argument == "") != takesNone {
			t.Errorf("-h shows -%s with %+v, want the default %q, and an argument: %t",
				each.Name, text, fallback, !takesNone)
		}
	})
	slices.Sort(want)
	if names := slices.Sorted(maps.Keys(shown)); !slices.Equal(names, want) {
		t.Errorf("-h shows the flags %q, want %q", names, want)
	}
	if count := strings.Count(help, "\n"); count > 48 {
		t.Errorf("-h has %d lines, want at most 48", count)
	}
	for line := range strings.Lines(help) {
		if len(line) > 100+1 {
			t.Errorf("a line of -h has %d columns, want at most 100: %s", len(line)-1, line)
		}
	}
}
