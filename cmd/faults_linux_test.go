package cmd_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"mbus/internal/shared/bustest"
)

// acceptNumbered sends count messages, 10 in a payload, as the writer writer0 of a load
// does. The broker must accept all of them.
func (daemon *daemon) acceptNumbered(count int) {
	daemon.t.Helper()
	const batch = 10
	padding := strings.Repeat("x", 100)
	for first := 0; first < count; first += batch {
		var texts []string
		for i := range batch {
			texts = append(texts, fmt.Sprintf("writer0 %d %s", first+i, padding))
		}
		daemon.Accept(bustest.Payload("topic0", texts...), batch)
	}
}

// On a disk that is full, messages are kept until there is room.
func TestDiskFull(t *testing.T) { eachLog(t, testDiskFull) }

func testDiskFull(t *testing.T, start starter) {
	directory := smallDisk(t, "256k")
	filler := filepath.Join(directory, "filler")
	if err := os.WriteFile(filler, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := start(t, filepath.Join(directory, "log"), "-interval", "20ms")
	const count = 1000
	broker.acceptNumbered(count)
	// The disk is full some time before a write fails: the last page has room. The
	// log has been refused room when it ends with a page, and some ticks have not
	// changed that.
	full, since := 0, time.Now()
	bustest.Until(t, "a full disk", func() bool {
		if size := len(broker.Log.String()); size != full {
			full, since = size, time.Now()
		}
		var disk syscall.Statfs_t
		return syscall.Statfs(directory, &disk) == nil && disk.Bavail == 0 &&
			full%os.Getpagesize() == 0 && time.Since(since) > 200*time.Millisecond
	})
	last := fmt.Sprintf("writer0 %d ", count-1)
	if strings.Contains(broker.Log.String(), last) {
		t.Fatal("all messages found room")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{last, "no space left on device\n"} {
		bustest.Until(t, text, func() bool { return strings.Contains(broker.Log.String(), text) })
	}
	broker.stop()
	sum := verify(t, broker.Log.String(), []*writer{{name: "writer0", acked: count}}, false)
	t.Logf("figure: a full disk after %d bytes: %d messages accepted, %d lost, %d twice, none torn",
		full, sum.acked, sum.lost, sum.extra)
}

// On a device that never has room, the broker accepts and keeps, and its exit status
// shows that it could not write.
func TestDevFull(t *testing.T) {
	broker := startOnDevice(t, "/dev/full", "-timeout", "300ms", "-interval", "10ms")
	if status, stderr := broker.produce("t", "1"); status != 0 {
		t.Errorf("the producer ended with status %d: %s", status, stderr)
	}
	broker.signal(syscall.SIGTERM)
	if status := broker.wait(); status != 1 {
		t.Errorf("status %d", status)
	}
}

// limitDescriptors sets how many descriptors the broker may have.
func (daemon *daemon) limitDescriptors(count uint64) {
	daemon.t.Helper()
	limit := syscall.Rlimit{Cur: count, Max: 1 << 10}
	pid := uintptr(daemon.command.Process.Pid)
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, pid, syscall.RLIMIT_NOFILE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		daemon.t.Skipf("no limit can be set here: %v", errno)
	}
}

// descriptors returns how many files and sockets the broker has open.
func (daemon *daemon) descriptors() int {
	daemon.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", daemon.command.Process.Pid))
	if err != nil {
		daemon.t.Fatal(err)
	}
	return len(entries)
}

// cpuTicks returns the processor time that the broker has taken, in 1/100 s.
func (daemon *daemon) cpuTicks() int {
	daemon.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", daemon.command.Process.Pid))
	if err != nil {
		daemon.t.Fatal(err)
	}
	// The name in parentheses may have spaces. Fields 14 and 15 are the user's and
	// the system's time, see proc_pid_stat(5).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system
}

// Without a descriptor for a connection the broker waits for one, logs that once, and
// goes on when there is one.
func TestFewDescriptors(t *testing.T) {
	broker := startBroker(t, "-interval", "10ms")
	for burst := 1; burst <= 2; burst++ {
		broker.limitDescriptors(3)
		var waiting []*bustest.Conn
		for range 50 {
			connection := broker.Dial()
			connection.End(goodMessage)
			waiting = append(waiting, connection)
		}
		const line = "Broker: can't accept connections, trying on: "
		bustest.Until(t, "the line", func() bool {
			return strings.Count(broker.Log.String(), line) >= burst
		})
		before := broker.cpuTicks()
		time.Sleep(300 * time.Millisecond) // the time over which the load is measured
		if ticks := broker.cpuTicks() - before; ticks > 15 {
			t.Errorf("it spins: %d ticks of processor time in 300 ms", ticks)
		}
		broker.limitDescriptors(1 << 10)
		for _, connection := range waiting {
			if reply := connection.Reply(); reply.Accepted != 1 {
				t.Fatalf("the reply is %+v", *reply)
			}
		}
		if got := strings.Count(broker.Log.String(), line); got != burst {
			t.Errorf("after burst %d the line is there %d times", burst, got)
		}
	}
}

// Many connections come at once, and half of them are reset. Each of the others is
// answered, and nothing is left of any.
func TestManyConnections(t *testing.T) { eachLog(t, testManyConnections) }

func testManyConnections(t *testing.T, start starter) {
	broker := start(t, filepath.Join(t.TempDir(), "log"), "-interval", "10ms")
	before := broker.descriptors()
	count := longOrShort(2000, 400)
	var group sync.WaitGroup
	failures := make(chan error, count)
	begin := make(chan struct{})
	for i := range count {
		connection := broker.Dial()
		connection.SetDeadline(time.Now().Add(2 * bustest.Patience))
		group.Go(func() {
			defer connection.Close()
			<-begin
			if i%2 == 0 {
				io.WriteString(connection, goodMessage[:len(goodMessage)*(i%10)/10])
				connection.SetLinger(0)
				return
			}
			io.WriteString(connection, goodMessage)
			connection.CloseWrite()
			const accepted = "\x82\xa8Accepted\x01\xa5Error\xa0"
			if reply, err := io.ReadAll(connection); string(reply) != accepted {
				failures <- fmt.Errorf("connection %d: %q, %v", i, reply, err)
			}
		})
	}
	close(begin)
	group.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	bustest.Until(t, "the last message", func() bool {
		return len(broker.Received("a")) == count/2
	})
	// The poller's own descriptor may come after the first count.
	bustest.Until(t, "the last descriptor's end", func() bool {
		return broker.descriptors() <= before+1
	})
	t.Logf("figure: %d connections at once, half of them reset: "+
		"%d accepted of %d, descriptors %d before and %d after",
		count, len(broker.Received("a")), count/2, before, broker.descriptors())
}
