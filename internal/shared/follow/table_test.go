package follow_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logfile"
)

// numbered returns so many lines with a file's name.
func numbered(name string, count int) string {
	var text strings.Builder
	for i := range count {
		fmt.Fprintf(&text, "%s %d\n", name, i)
	}
	return text.String()
}

// threeFiles makes a log of three files, and returns the readers of half of the first: one that
// stays, and one that is away.
func threeFiles(t *testing.T) (log logFiles, there, away reader) {
	log = newLog(t)
	log.number("", 1, 0, numbered("a", 10))
	there = log.follow()
	half := ""
	for range 6 { // the first is that of the file
		line, err := there.Next()
		log.check(err)
		half += string(line)
	}
	if !strings.HasSuffix(half, "a 4\n") {
		t.Fatalf("read %q", half)
	}
	away = log.follow()
	away.Seek(there.Position())
	log.rotate(".2", numbered("b", 10))
	log.rotate(".1", numbered("c", 10))
	return log, there, away
}

// restOfThree are the lines of threeFiles that are not read yet.
var restOfThree = numbered("a", 10)[20:] + numbered("b", 10) + numbered("c", 10)

// harmless are changes to the files of threeFiles that lose nothing.
var harmless = map[string]func(log logFiles){
	"nothing": func(logFiles) {},
	"the files are copied, in another order": func(log logFiles) {
		for i, suffix := range []string{"", ".1", ".2"} {
			log.copy(suffix, "_")
			log.check(os.Remove(log.path + suffix))
			log.rename("_", suffix)
			log.age(suffix, 60*i)
		}
	},
	"a clock was corrected": func(log logFiles) { log.age(".1", 3600) },
	"a file is from 1969":   func(log logFiles) { log.age(".2", 60*365*86400) },
	"a file is restored": func(log logFiles) {
		log.copy(".2", ".2_")
		log.rename(".2_", ".2")
	},
	"a second name":          func(log logFiles) { log.link(".2", "-2026-11-28") },
	"a second name for FILE": func(log logFiles) { log.link("", ".0") },
	"a link": func(log logFiles) {
		log.check(os.Symlink("mbus.log.2", log.path+".7"))
	},
	"a link to FILE": func(log logFiles) {
		log.check(os.Symlink("mbus.log", log.path+".7"))
	},
	"a backup of FILE": func(log logFiles) { log.copy("", "-20261129") },
	"backups of all": func(log logFiles) {
		log.copy(".2", "-1")
		log.copy(".1", "-2")
		log.copy("", "-3")
	},
	"a backup that is a beginning": func(log logFiles) {
		log.copy(".1", "-1")
		log.truncate("-1", 100)
		log.copy(".2", "-2")
		log.truncate("-2", 100)
	},
	"a backup of FILE, then a rotation": func(log logFiles) {
		log.copy("", "-20261129")
		log.rename("", ".0")
	},
	"a copy of FILE that is longer": func(log logFiles) {
		log.copy("", ".7")
		log.write(".7", "no\n")
	},
	"longer copies of rotated files": func(log logFiles) {
		for _, suffix := range []string{".1", ".2"} {
			log.copy(suffix, "-7"+suffix)
			log.write("-7"+suffix, "no\n")
		}
	},
	"unlike copies of a rotated file": func(log logFiles) {
		for _, name := range []string{"B", "C"} {
			log.copy(".1", "-"+name)
			log.edit("-"+name, "b 3", name+" 3")
			log.write("-"+name, "no\n")
		}
		log.rename("-B", "-1")
		log.rename("-C", "-2")
	},
	"other logs": func(log logFiles) {
		for i, suffix := range []string{".3", "-4", ".5"} {
			header := logfile.Header{
				Log: uint64(i + 1), Number: int64(i + 1), After: 120, Name: "mbus.log"}
			log.write(suffix, string(header.Append(nil, time.Now()))+"no\n")
		}
		log.write("-6", "2026/11/28 11:00:00 of an earlier version\n")
		log.write("-7", "no log\n")
		log.write(".1.gz", "no\n")
		log.check(os.Mkdir(log.path+".8", 0o700))
	},
}

// Whatever is done to the files of a log, a reader that is there and one that is away read each
// line once.
func TestHarmless(t *testing.T) {
	for name, change := range harmless {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, there, away := threeFiles(t)
				change(log)
				there.must(restOfThree)
				away.must(restOfThree)
				all := log.follow()
				all.must(numbered("a", 5) + restOfThree)
				if exists(log.path) {
					log.rotate(".9", "last\n")
					there.must("last\n")
					away.must("last\n")
					all.must("last\n")
				}
			})
		})
	}
}

func (l logFiles) remove(suffix string) {
	l.t.Helper()
	l.check(os.Remove(l.path + suffix))
}

func (l logFiles) link(from, to string) {
	l.t.Helper()
	l.check(os.Link(l.path+from, l.path+to))
}

// otherLog is the first line of a file of another log.
var otherLog = string(logfile.Header{Log: 7, Number: 9, After: 1, Name: "mbus.log"}.Append(
	nil, time.Now()))

// restOfFirst are the lines of the first of threeFiles that are not read yet.
const restOfFirst = "a 5\na 6\na 7\na 8\na 9\n"

// losses are changes to the files of threeFiles that lose lines.
var losses = map[string]struct {
	change func(log logFiles)
	want   string // for the reader that is away
	why    string
	atOnce bool
}{
	"a file in the middle": {func(log logFiles) { log.remove(".1") },
		restOfFirst, ": file 2 is missing", false},
	"the own file and the next": {func(log logFiles) {
		log.remove(".1")
		log.remove(".2")
	}, "", ": file 2 is missing", false},
	"two files": {func(log logFiles) {
		log.rotate(".0", "d\n")
		log.remove(".1")
		log.remove(".0")
	}, restOfFirst, ": files 2 to 3 are missing", false},
	"the own file": {func(log logFiles) { log.remove(".2") },
		"", ": bytes 89 to 109 of file 1 are missing", false},
	"a short file": {func(log logFiles) { log.truncate(".2", 105) },
		"a 5\na 6\na 7\na 8\n", ": bytes 105 to 109 of file 1 are missing", false},
	"a long file": {func(log logFiles) { log.write(".2", "more\n") },
		restOfFirst + "more\n", ": file 1 has more than the 109 bytes that file 2 says", true},
	"unlike files": {func(log logFiles) {
		log.copy(".1", ".3")
		log.edit(".3", "b 3", "B 3")
	}, restOfFirst, "are two unlike files with number 2", false},
	"FILE of another log": {func(log logFiles) {
		log.check(os.Remove(log.path))
		log.write("", otherLog)
	}, "", ": it is another log now, 0000000000000007", true},
	"an old file as FILE": {func(log logFiles) {
		log.rename("", ".0")
		log.copy(".2", "")
	}, restOfThree, ": the log's last file is file 1", false},
}

// What is missing loses the position, and says what it is.
func TestLost(t *testing.T) {
	for name, test := range losses {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, _, away := threeFiles(t)
				test.change(log)
				took := away.loses(test.want, test.why)
				if atOnce := took < 9*time.Second; atOnce != test.atOnce || took > 12*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// What arrives within 10 s is read, in whatever order it arrives.
func TestArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, _, away := threeFiles(t)
		log := newLog(t)
		back, all := log.follow(), log.follow()
		back.Seek(away.Position())
		back.must("")
		time.Sleep(time.Hour) // without a limit
		bring := func(suffix string, count int64) {
			log.write("_", from.read(suffix)[:count])
			log.rename("_", suffix)
			time.Sleep(9 * time.Second)
		}
		size := func(suffix string) int64 { return int64(len(from.read(suffix))) }
		bring("", 100) // as rsync does, FILE first
		back.must("")
		bring(".2", 90)
		back.must("")
		bring(".2", size(".2"))
		back.must(restOfThree[:20])
		bring(".1", 105)
		back.must("b 0\nb 1\n")
		bring(".1", size(".1"))
		back.must(numbered("b", 10)[8:] + "c 0\n")
		bring("", size(""))
		back.must(numbered("c", 10)[4:])
		all.must(numbered("a", 5) + restOfThree)
	})
}

// A file that grows slowly is waited for without a limit.
func TestSlowGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _, away := threeFiles(t)
		text := log.read(".2")
		log.truncate(".2", 95)
		away.must("a 5\n")
		for i := 95; i < len(text); i++ {
			time.Sleep(5 * time.Second)
			log.write(".2", text[i:i+1])
			_, err := away.Next()
			log.check(err)
		}
		away.until(func(got string) bool { return strings.HasSuffix(got, "c 9\n") },
			numbered("b", 10)+numbered("c", 10))
	})
}

// A file that is emptied after it was chosen, and before its first line was read, is another one.
func TestEmptiedUnread(t *testing.T) {
	// In synctest no time passes while a Follower goes to the same file again and again.
	watch := time.AfterFunc(patience, func() { panic("the Follower does not return") })
	defer watch.Stop()
	for _, text := range []string{"", "torn", "c\n"} {
		synctest.Test(t, func(t *testing.T) {
			log := newLog(t)
			log.number("", 1, 0, "a\ntorn")
			log.rotate(".1", "b\n")
			there := log.follow()
			for line := ""; line != "torn"; { // then FILE is the next
				text, err := there.Next()
				log.check(err)
				line = string(text)
			}
			size := len(log.read(""))
			log.truncate("", 0)
			if text != "c\n" {
				log.write("", text)
				there.must("")
				time.Sleep(time.Minute)
				there.must("")
				log.truncate("", 0)
			}
			log.number("", 3, size, text)
			there.loses("", ": file 2 is missing")
		})
	}
}

// If two files are gone whose first lines were not read, both are missing.
func TestEmptiedTwiceUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t)
		log.number("", 1, 0, "a\ntorn")
		log.rotate(".1", "b\n")
		there := log.follow()
		there.readTo("torn") // then FILE is the next
		log.truncate("", 0)
		log.number("", 4, 75, "")
		there.loses("", ": files 2 to 3 are missing")
	})
}

// While FILE, which was emptied unread, has no line, a reader stays at the end of the log.
func TestEmptiedAtEnd(t *testing.T) {
	log := newLog(t)
	log.number("", 1, 0, "a\nb\n")
	log.rotate(".1", "c\n")
	there := log.follow()
	there.readTo("a\n") // by then FILE is listed
	log.truncate("", 0)
	there.must("b\n")
	there.must("")
	end, err := there.End()
	if err != nil || !there.At(end) {
		t.Errorf("the position is %v, and the end is %v, %v", there.Position(), end, err)
	}
}

// FILE that comes back within 10 s is read on, each time that it is away.
func TestFILEComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t)
		log.number("", 1, 0, "a\n")
		there := log.follow()
		there.must("a\n")
		for range 2 {
			log.rename("", ".1")
			log.number("", 1, 0, "changed\n")
			for range 30 {
				there.must("")
				time.Sleep(200 * time.Millisecond)
			}
			log.rename(".1", "")
			for range 60 {
				there.must("")
				time.Sleep(time.Second)
			}
		}
		log.write("", "b\n")
		there.must("b\n")
	})
}

// An old file in the place of FILE does not hide what follows it.
func TestOldFILE(t *testing.T) {
	for why, files := range map[string][2]int{
		": file 2 is missing":                {3, 4},
		"are two unlike files with number 2": {2, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := newLog(t)
			log.number("", 1, 0, "a\n")
			log.number(".1", files[0], 71, "b\n")
			log.number(".2", files[1], 71, "c\n")
			log.follow().loses("a\n", why)
		})
	}
}

// A reader that has waited for the rest of a file notices that the file after it is missing.
func TestLostAfterArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _, away := threeFiles(t)
		log.rotate(".0", "d\n")
		log.remove(".0")
		text := log.read(".1")
		log.truncate(".1", 101)
		away.must(restOfThree[:20] + "b 0\n")
		for range 5 {
			time.Sleep(time.Second)
			away.must("")
		}
		log.write(".1", text[101:])
		took := away.loses(numbered("b", 10)[4:], ": file 3 is missing")
		if took > 12*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// A file that is removed while it is read is followed by the next one, and not by a copy of it that
// has more.
func TestRemovedWithCopy(t *testing.T) {
	log := newLog(t)
	log.number("", 1, 0, "a\n")
	there := log.follow()
	there.must("a\n")
	log.copy("", ".7")
	log.write(".7", "no\n")
	log.rotate(".1", "b\n")
	log.remove(".1")
	there.must("b\n")
}

// FILE can be a link. It is rotated where it is.
func TestLinkedFILE(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(t)
		link := logFiles{t, filepath.Join(t.TempDir(), "link")}
		log.check(os.Symlink(log.path, link.path))
		there := link.follow()
		there.must("")
		log.number("", 1, 0, "a\n")
		there.must("a\n")
		back := link.follow()
		back.Seek(there.Position())
		log.rename("", ".1")
		log.next(".1", "-20261128", "b\n")
		there.must("b\n")
		log.next("-20261128", "", "c\n")
		there.must("c\n")
		back.must("b\nc\n")
	})
}

// Another broker's log is not read, even if its name is like that of a rotated file.
func TestTwoLogs(t *testing.T) {
	log := newLog(t)
	log.number("", 1, 0, "a\n")
	header := logfile.Header{Log: 9, Number: 1, Name: "mbus.log-2"}
	log.write("-2", string(header.Append(nil, time.Now()))+"no\n")
	there := log.follow()
	there.must("a\n")
	log.rotate(".1", "b\n")
	there.must("b\n")
}

// Files that begin alike are told apart by their first lines, also if a clock goes back.
func TestAlike(t *testing.T) {
	log := newLog(t)
	const same = "2026/10/25 02:00:00 alive\n"
	log.number("", 1, 0, strings.Repeat(same, 100))
	there := log.follow()
	there.must(strings.Repeat(same, 100))
	back := log.follow()
	back.Seek(there.Position())
	log.rotate("-02", strings.Repeat(same, 100))
	log.rotate("-02.1", strings.Repeat(same, 100))
	there.must(strings.Repeat(same, 200))
	back.must(strings.Repeat(same, 200))
}

// recoveries are changes to the files of threeFiles, and the position that Recover returns then.
var recoveries = map[string]struct {
	change func(log logFiles)
	want   string
}{
	"no loss":      {func(logFiles) {}, "offset 89 of file 1"},
	"a later loss": {func(log logFiles) { log.remove(".1") }, "offset 89 of file 1"},
	"edited":       {func(log logFiles) { log.edit(".2", "a 3", "A 3") }, "offset 0 of file 1"},
	"the own file": {func(log logFiles) { log.remove(".2") }, "offset 0 of file 2"},
	"only FILE": {func(log logFiles) {
		log.copy(".2", "")
		log.edit("", "a 3", "A 3")
		log.remove(".2")
		log.remove(".1")
	}, "offset 0 of file 1"},
	"a short file": {func(log logFiles) {
		log.truncate(".2", 75)
		log.write(".2", "\n")
	}, "offset 0 of file 1"},
}

// After a loss, Recover finds where to go on. Without a loss it changes nothing.
func TestRecover(t *testing.T) {
	for name, test := range recoveries {
		t.Run(name, func(t *testing.T) {
			log, there, away := threeFiles(t)
			there.must(restOfThree)
			test.change(log)
			position := away.Position()
			place, err := log.follow().Recover(position)
			want := test.want + " of log 5b1b30b6c2830ccd"
			if err != nil || place.String() != want {
				t.Errorf("%v, %v, want %s", place, err, want)
			}
			if (place == position) != (place.Offset > 0) {
				t.Errorf("%+v was %+v", place, position)
			}
		})
	}
}

// At the end of a file, the next of which is missing, Recover finds the one after it. In another
// log, it finds that log's start.
func TestRecoverAtEnd(t *testing.T) {
	log, there, _ := threeFiles(t)
	there.must(restOfThree)
	back := log.follow()
	var end follow.Position
	for back.Position().Number < 2 {
		end = back.Position()
		_, err := back.Next()
		log.check(err)
	}
	log.remove(".1")
	place, err := log.follow().Recover(end)
	if err != nil || place != (follow.Position{Log: id, Number: 3}) {
		t.Errorf("%v, %v", place, err)
	}
	log.check(os.Remove(log.path))
	header := logfile.Header{Log: 9, Number: 4, After: 1, Name: "mbus.log"}
	log.write("", string(header.Append(nil, time.Now())))
	place, err = log.follow().Recover(end)
	if err != nil || place != (follow.Position{Log: 9, Number: 4}) {
		t.Errorf("%v, %v", place, err)
	}
}
