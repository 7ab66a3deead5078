//go:build unix

package cmd_test

import (
	"os"
	"testing"

	"mbus/internal/shared/bustest"
)

// dayLog makes a log of two files with messages at several times. In the second file the clock is
// set back.
func dayLog(t *testing.T) logAndState {
	t.Helper()
	store := newLogAndState(t)
	first := bustest.FirstLine(t, store.log) // newLogAndState has made the file
	if first != "" {
		t.Fatal("the log is new")
	}
	if err := os.Remove(store.log); err != nil {
		t.Fatal(err)
	}
	store.append("2024/06/02 09:00:00 Broker: file 1 of log 5b1b30b6c2830ccd: mbus.log\n" +
		at("10:00:00", "t", "10:00:00") + at("10:00:01", "t", "10:00:01") +
		"2024/06/02 10:00:05 Rec")
	if err := os.Rename(store.log, store.log+".1"); err != nil {
		t.Fatal(err)
	}
	store.append("2024/06/02 11:00:00 Broker: file 2 of log 5b1b30b6c2830ccd, " +
		"after 205 bytes of file 1: mbus.log\n" +
		at("11:00:01", "t", "11:00:01") + at("10:00:00", "t", "again") +
		at("12:00:00", "t", "12:00:00"))
	return store
}

// The first line of a time is the first in the log's order whose time stamp is that or later.
func TestConsumerFromTime(t *testing.T) {
	t.Parallel()
	const ten, late = "10:00:00\n10:00:01\n", "11:00:01\nagain\n12:00:00\n"
	for clock, want := range map[string]string{
		"00:00:00": ten + late, "10:00:00": ten + late, "10:00:01": "10:00:01\n" + late,
		"10:00:02": late, "11:00:01": late, "11:00:02": "12:00:00\n", "12:00:00": "12:00:00\n",
		"12:00:01": "",
	} {
		for _, when := range []string{"2024/06/02 " + clock, "2024-06-02T" + clock} {
			store := dayLog(t)
			status, stdout, stderr := consume(t, store.with("-end", "-from", when)...)
			if status != 0 || stdout != want || want == late && stderr != "" {
				t.Errorf("-from %s: status %d, wrote %q, want %q, said %s",
					when, status, stdout, want, stderr)
			}
			store = dayLog(t)
			place := "is set to offset "
			store.seeks(when, place)
			status, stdout, _ = consume(t, store.with("-end")...)
			if status != 0 || stdout != want {
				t.Errorf("-seek %s: status %d, wrote %q, want %q", when, status, stdout, want)
			}
		}
	}
}

// Until the first line of the time has come, no position is saved. -seek makes it the end.
func TestConsumerFromTimeToCome(t *testing.T) {
	t.Parallel()
	store := dayLog(t)
	const when = "2024/06/02 13:00:00"
	delivers(t, "", store.with("-end", "-from", when)...)
	if text := bustest.Read(t, store.state); text != "" {
		t.Errorf("the state is %s", text)
	}
	running := startConsumer(t, store.with("-from", when)...)
	store.append(at("12:59:59", "t", "no") + at("13:00:00", "t", "1") + at("12:00:00", "t", "2"))
	running.has("1\n2\n")
	running.stop()
	delivers(t, "", store.with("-end", "-from", when)...)

	store.seeks("2024/06/02 14:00:00", "is set to offset ")
	store.append(at("12:59:59", "t", "3"))
	delivers(t, "3\n", store.with("-end")...)
}

// The position before the first line of the time is saved before the line is delivered.
func TestConsumerFromTimeSaves(t *testing.T) {
	t.Parallel()
	store := dayLog(t)
	fails(t, 1, "message ID on topic t: false: exit status 1",
		store.with("-from", "2024/06/02 11:00:01", "--", "false")...)
	delivers(t, "11:00:01\n", store.with("-count", "1")...)
}
