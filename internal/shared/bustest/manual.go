package bustest

import (
	"maps"
	"regexp"
	"strings"
	"testing"
)

// The parts of a manual page in mdoc.
var (
	manualFlag   = regexp.MustCompile(`(?m)^\.It Fl (\S+)(?: Ar (\S+))?(?: Pq default (\S+))?$`)
	manualStatus = regexp.MustCompile(`(?m)^\.It (\d)\n((?:(?:[^.\n]|\.[^IE]).*\n)*)`)
	manualInline = regexp.MustCompile(`(?m)^\.Fl (\w+) ?`)
	display      = regexp.MustCompile(`(?ms)^\.Bd -literal[^\n]*\n(.*?)^\.Ed$`)
)

// CheckManual fails the test unless the manual page at path has the flags, arguments, defaults
// and exit statuses of help, the answer to -h.
func CheckManual(t testing.TB, path, help string) {
	t.Helper()
	page := Read(t, path)
	wantFlags, wantStatuses := parseHelp(help)
	flags, statuses := make(map[string]flagText), make(map[string]string)
	for _, entry := range manualFlag.FindAllStringSubmatch(page, -1) {
		fallback := strings.TrimSuffix(entry[3], `\&`) // which keeps a dot from ending a sentence
		flags[entry[1]] = flagText{argument: entry[2], fallback: fallback}
	}
	if !maps.Equal(flags, wantFlags) {
		t.Errorf("%s has the flags %+v, -h has %+v", path, flags, wantFlags)
	}
	for _, entry := range manualStatus.FindAllStringSubmatch(page, -1) {
		words := strings.Fields(manualInline.ReplaceAllString(entry[2], "-$1"))
		statuses[entry[1]] = strings.Join(words, " ")
	}
	isSame := func(meaning, want string) bool {
		return strings.HasPrefix(strings.ToLower(meaning), strings.ToLower(want)+".")
	}
	if !maps.EqualFunc(statuses, wantStatuses, isSame) {
		t.Errorf("%s has the exit statuses %q, -h has %q", path, statuses, wantStatuses)
	}
}

// Displays returns the literal displays in the section or subsection of a manual page, as a reader
// sees them. It fails the test if there is no such section.
func Displays(t testing.TB, path, title string) []string {
	t.Helper()
	page, next := Read(t, path), "\n.Sh "
	_, section, found := strings.Cut(page, "\n.Sh "+title+"\n")
	if !found {
		next = "\n.S"
		if _, section, found = strings.Cut(page, "\n.Ss "+title+"\n"); !found {
			t.Fatalf("%s has no section %s", path, title)
		}
	}
	section, _, _ = strings.Cut(section, next)
	// The escapes of roff that the pages use: see mandoc_char(7).
	unescape := strings.NewReplacer(`\e`, `\`, `\-`, "-", `\&`, "",
		`\(aq`, "'", `\(ga`, "`", `\(ha`, "^", `\(ti`, "~")
	var texts []string
	for _, match := range display.FindAllStringSubmatch(section, -1) {
		texts = append(texts, unescape.Replace(match[1]))
	}
	return texts
}
