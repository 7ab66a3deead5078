package main

import (
	"net/url"
	"regexp"
	"testing"
)

func TestSubject(t *testing.T) {
	for topic, want := range map[string]string{
		"orders": "orders", "a.b": "a.b", "a.b.c": "a.b.c", "A-z_09": "A-z_09",
		".": "%2E", "..": "%2E%2E", ".a": "%2Ea", "a.": "a%2E", "a..b": "a%2E%2Eb",
		"*": "%2A", ">": "%3E", "a.>": "a.%3E", "%": "%25", "%2E": "%252E", "a b": "a%20b",
		"/": "%2F", "ż": "%C5%BC", "$JS.API": "%24JS.API", "\x00\xff": "%00%FF",
	} {
		if got := subject("p.", topic); got != "p."+want {
			t.Errorf("%q: %s, want p.%s", topic, got, want)
		}
	}
}

// The topic can be decoded from its subject, so no two topics have the same. The engine
// accepts each subject: its tokens are not empty, and have no white space or wildcards.
func FuzzSubject(f *testing.F) {
	for _, topic := range []string{"orders", "..", "a.b..c.", "%2E", "żółw", "*.>", "\xff \t"} {
		f.Add(topic)
	}
	good := regexp.MustCompile(`^mbus(\.[A-Za-z0-9_%-]+)+$`)
	f.Fuzz(func(t *testing.T, topic string) {
		if topic == "" {
			return
		}
		subject := subject("mbus.", topic)
		if !good.MatchString(subject) {
			t.Errorf("%q: %s", topic, subject)
		}
		if back, err := url.PathUnescape(subject[len("mbus."):]); err != nil || back != topic {
			t.Errorf("%q: %s, and back %q, %v", topic, subject, back, err)
		}
	})
}

func TestCovers(t *testing.T) {
	for _, test := range []struct {
		pattern, prefix string
		want            bool
	}{
		{"mbus.>", "mbus.", true}, {">", "mbus.", true},
		{"*.>", "mbus.", true}, {"*.>", "mbus.a.", true},
		{"mbus.>", "mbus.a.", true}, {"mbus.a.>", "mbus.a.", true}, {"*.a.>", "mbus.a.", true},
		{"mbus.*", "mbus.", false}, {"mbus", "mbus.", false}, {"*", "mbus.", false},
		{"mbus.a.>", "mbus.", false}, {"mbus.*.>", "mbus.", false}, {"mbus.b.>", "mbus.a.", false},
		{"mbu.>", "mbus.", false}, {"mbus.a", "mbus.a.", false},
	} {
		if got := covers(test.pattern, test.prefix); got != test.want {
			t.Errorf("%s covers %s: %v", test.pattern, test.prefix, got)
		}
	}
}
