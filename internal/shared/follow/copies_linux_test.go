package follow_test

import (
	"fmt"
	"syscall"
	"testing"
)

// However many copies of a file are beside the log, few files are open at a time.
func TestManyCopies(t *testing.T) {
	log := newLog(t)
	log.number("", 1, 0, "a\n")
	for i := range 200 {
		log.copy("", fmt.Sprint(".", i))
	}
	log.rename("", ".200")
	log.next(".200", "", "b\n")

	before := descriptors(t)
	var limit syscall.Rlimit
	log.check(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	low := syscall.Rlimit{Cur: uint64(before + 20), Max: limit.Max}
	log.check(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low))
	there := log.follow()
	there.must("a\nb\n")
	there.Close()
	if after := descriptors(t); after != before {
		t.Errorf("%d files are open, %d before", after, before)
	}
}
