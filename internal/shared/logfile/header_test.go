package logfile_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/logfile"
)

var when = time.Date(2026, 11, 29, 7, 0, 0, 0, time.Local)

// The first lines of files are as the package's documentation says.
func TestHeader(t *testing.T) {
	const start = "2026/11/29 07:00:00 Broker: file "
	for want, header := range map[string]logfile.Header{
		start + "1 of log 5b1b30b6c2830ccd: mbus.log\n": {
			Log: 0x5b1b30b6c2830ccd, Number: 1, Name: "mbus.log"},
		start + "12 of log 5b1b30b6c2830ccd, after 48213 bytes of file 11: mbus.log\n": {
			Log: 0x5b1b30b6c2830ccd, Number: 12, After: 48213, Name: "mbus.log"},
		start + "2 of log 0000000000000001, after 0 bytes of file 1: it\\x27s \\\\ \\n: a\n": {
			Log: 1, Number: 2, Name: "it's \\ \n: a"},
		start + "9999999999 of log ffffffffffffffff, after 9223372036854775807 bytes " +
			"of file 9999999998: , after 1\n": {
			Log: 1<<64 - 1, Number: logfile.MaxNumber, After: 1<<63 - 1, Name: ", after 1"},
	} {
		if got := string(header.Append(nil, when)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got, found := logfile.Parse([]byte(want)); got != header || !found {
			t.Errorf("%q: %+v, %v", want, got, found)
		}
	}
}

// Only lines that Append returns are headers.
func TestNoHeader(t *testing.T) {
	const whole = "2026/11/29 07:00:00 Broker: file 12 of log 5b1b30b6c2830ccd, " +
		"after 48213 bytes of file 11: mbus.log\n"
	if _, found := logfile.Parse([]byte(whole)); !found {
		t.Fatal("the whole line is none")
	}
	for length := range len(whole) {
		if header, found := logfile.Parse([]byte(whole[:length])); found {
			t.Errorf("%q: %+v", whole[:length], header)
		}
	}
	for _, change := range []struct{ old, new string }{
		{"2026/", "20x6/"}, {"file 12", "file 012"}, {"file 12", "file 0"}, {"file 12", "file +12"},
		{"file 12", "file 13"}, {"file 11", "file 12"}, {"5b1b", "5B1B"}, {"5b1b", "b1b"},
		{"5b1b", "05b1b"}, {"48213", "-1"}, {"48213", "048213"}, {"48213", "9223372036854775808"},
		{"file 12", "file 1"}, {": mbus", ":  mbus"[:2] + "'"}, {"mbus.log", "mbus\x00log"},
		{"mbus", `\x61`}, {"mbus", "\xff"}, {"\n", "\r\n"}, {"\n", "\n\n"}, {"\n", " \n\x00"},
		{"12 of log 5b1b30b6c2830ccd, after 48213 bytes of file 11",
			"10000000000 of log 5b1b30b6c2830ccd, after 48213 bytes of file 9999999999"},
		{"5b1b30b6c2830ccd", "0000000000000000"}, {"Broker", "broker"},
		{"Broker: ", "Received new message from topic 'a': 'Broker: "},
	} {
		line := strings.Replace(whole, change.old, change.new, 1)
		if header, found := logfile.Parse([]byte(line)); found || line == whole {
			t.Errorf("%q: %+v", line, header)
		}
	}
}

// Ids are random.
func TestNewLog(t *testing.T) {
	if first, second := logfile.NewLog(), logfile.NewLog(); first == second || first == 0 {
		t.Errorf("%x, %x", first, second)
	}
}

// The last line feed is found wherever it is.
func TestLineEnd(t *testing.T) {
	for _, length := range []int{0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200_000} {
		for text, want := range map[string]int{
			strings.Repeat("x", length): 0, "\n" + strings.Repeat("x", length): 1,
			strings.Repeat("\n", length): length, strings.Repeat("a", length) + "\n": length + 1,
		} {
			end, err := logfile.LineEnd(strings.NewReader(text), int64(len(text)))
			if end != int64(want) || err != nil {
				t.Errorf("%d bytes: %d, %v, want %d", len(text), end, err, want)
			}
		}
	}
	if _, err := logfile.LineEnd(strings.NewReader("a\nb"), 4); err != logfile.ErrChanged {
		t.Error(err)
	}
}

// A line that is a header is exactly the one that Append makes of it.
func FuzzParse(f *testing.F) {
	f.Add([]byte("2026/11/29 07:00:00 Broker: file 1 of log 5b1b30b6c2830ccd: mbus.log\n"))
	f.Add([]byte("2026/11/29 07:00:00 Broker: file 2 of log 5b1b30b6c2830ccd, " +
		"after 48213 bytes of file 1: mbus.log\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		header, found := logfile.Parse(line)
		if !found {
			if header != (logfile.Header{}) {
				t.Errorf("%+v", header)
			}
			return
		}
		const stamp = len("2026/11/29 07:00:00 ")
		if again := header.Append(nil, when); !bytes.Equal(again[stamp:], line[stamp:]) ||
			bytes.IndexByte(line, '\n') != len(line)-1 || header.Number < 1 || header.After < 0 {
			t.Errorf("%q: %+v, which is %q", line, header, again)
		}
	})
}

// Any valid header comes back from its line.
func FuzzHeader(f *testing.F) {
	f.Add(uint64(1), int64(2), int64(3), "it's\n")
	f.Fuzz(func(t *testing.T, log uint64, number, after int64, name string) {
		header := logfile.Header{
			Log: max(log, 1), Number: 1 + (number&(1<<62-1))%logfile.MaxNumber,
			After: after & (1<<63 - 1), Name: name,
		}
		if header.Number == 1 {
			header.After = 0
		}
		line := header.Append(nil, when)
		if got, found := logfile.Parse(line); got != header || !found {
			t.Errorf("%q: %+v, want %+v", line, got, header)
		}
	})
}
