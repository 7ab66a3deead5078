package address

import (
	"runtime"
	"strings"
	"testing"
)

// A host and a port are TCP's, and a host with a slash is a path.
func TestParse(t *testing.T) {
	longest := "/" + strings.Repeat("x", MaxPath-1)
	for host, want := range map[string]string{
		"localhost": "tcp localhost:1",
		"::1":       "tcp [::1]:1",
		"[::1]":     "tcp [::1]:1",
		"127.0.0.1": "tcp 127.0.0.1:1",
		"/a b":      "unix /a b",
		"a/b:1":     "unix a/b:1",
		"@a/b":      "unix ./@a/b",
		longest:     "unix " + longest,
	} {
		if runtime.GOOS == "windows" && IsPath(host) {
			continue
		}
		network, address, err := Parse(host, "1")
		if got := network + " " + address; got != want || err != nil {
			t.Errorf("%s is %q, %v, want %q", host, got, err, want)
		}
	}
}

// What is neither a host nor the path of a socket is an error.
func TestParseErrors(t *testing.T) {
	for host, want := range map[string]string{
		"":               "must be a host",
		"localhost:9990": "must be a name or an address alone",
		"[::1]:9990":     "must be a name or an address alone",
		"[::1":           "must be a name or an address alone",
		"::1]":           "must be a name or an address alone",
		"[localhost]":    "must be a name or an address alone",
		"tcp://a":        "must be a host alone, or the path of a socket, and not a URL",
	} {
		if _, _, err := Parse(host, "1"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: the error is %v, want %q", host, err, want)
		}
	}
	for _, long := range []string{
		"/" + strings.Repeat("x", MaxPath), "@/" + strings.Repeat("x", MaxPath-3),
	} {
		_, _, err := Parse(long, "1")
		if runtime.GOOS != "windows" && (err == nil || !strings.Contains(err.Error(), "at most")) {
			t.Errorf("%d bytes: the error is %v", len(long), err)
		}
	}
}
