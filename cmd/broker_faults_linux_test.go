package cmd_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
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
func (b *brokerProcess) acceptNumbered(count int) {
	b.t.Helper()
	const batch = 10
	padding := strings.Repeat("x", 100)
	for first := 0; first < count; first += batch {
		var texts []string
		for i := range batch {
			texts = append(texts, fmt.Sprintf("writer0 %d %s", first+i, padding))
		}
		b.Accept(bustest.Payload("topic0", texts...), batch)
	}
}

// While the disk is full, the broker keeps messages in memory. It writes them once there is
// room.
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
	// The disk counts as full before a write fails, because the log's last page still has
	// room. A write has failed once the log ends at the end of a page and does not grow during
	// some ticks.
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
		t.Fatal("the log has all messages, want the disk full before the last one")
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

// The log is a device that never has room. The broker still accepts messages, but ends with
// status 1 because it could not write them.
func TestDevFull(t *testing.T) {
	t.Parallel()
	broker := startOnDevice(t, "/dev/full", "-timeout", "300ms", "-interval", "10ms")
	if status, stderr := broker.produce("t", "1"); status != 0 {
		t.Errorf("the producer ended with status %d: %s", status, stderr)
	}
	broker.Signal(syscall.SIGTERM)
	if status := broker.Wait(); status != 1 {
		t.Errorf("the broker ended with status %d, want 1", status)
	}
}

// limitDescriptors limits the number of the broker's file descriptors. It skips the test if the
// system does not allow that.
func (b *brokerProcess) limitDescriptors(count uint64) {
	b.t.Helper()
	limit := syscall.Rlimit{Cur: count, Max: 1 << 10}
	pid := uintptr(b.Command.Process.Pid)
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, pid, syscall.RLIMIT_NOFILE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		b.t.Skipf("prlimit failed: %v", errno)
	}
}

// descriptors returns the number of the broker's file descriptors.
func (b *brokerProcess) descriptors() int {
	b.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.Command.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(entries)
}

// cpuTicks returns the processor time that the broker has used, in 1/100 s.
func (b *brokerProcess) cpuTicks() int {
	b.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.Command.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	// The program's name, in parentheses, may have spaces. Fields 14 and 15 of the line are
	// the user time and the system time: see proc_pid_stat(5).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system
}

// When the broker has no file descriptor for a connection, it logs one line and waits. It
// accepts connections again once descriptors are free.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, "-interval", "10ms")
	for burst := 1; burst <= 2; burst++ {
		broker.limitDescriptors(3)
		var waiting []*bustest.Conn
		for range 50 {
			connection := broker.Dial()
			connection.End(goodMessage)
			waiting = append(waiting, connection)
		}
		const line = "Broker: can't accept connections, retrying: "
		bustest.Until(t, "the line "+line, func() bool {
			return strings.Count(broker.Log.String(), line) >= burst
		})
		before := broker.cpuTicks()
		time.Sleep(300 * time.Millisecond) // the load is measured over this time
		if ticks := broker.cpuTicks() - before; ticks > 15 {
			t.Errorf("the broker used %d ms of processor time in 300 ms, want at most 150",
				10*ticks)
		}
		broker.limitDescriptors(1 << 10)
		for _, connection := range waiting {
			if reply := connection.Reply(); reply.Accepted != 1 {
				t.Fatalf("the reply is %+v, want 1 accepted", *reply)
			}
		}
		if got := strings.Count(broker.Log.String(), line); got != burst {
			t.Errorf("after %d bursts the log has the line %d times", burst, got)
		}
	}
}

// A broker with few descriptors lets few replies wait, so that it never runs out of descriptors.
func TestRepliesWithFewDescriptors(t *testing.T) {
	t.Parallel()
	const limit, producers, each = 32, 64, 5
	script := fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, limit)
	broker := brokerCommand("-interval", "0")
	broker = exec.Command("sh", append([]string{"-c", script}, broker.Args...)...)
	running := startCommand(t, broker)
	var group sync.WaitGroup
	for range producers {
		group.Go(func() {
			for range each {
				if reply, err := running.Post(goodMessage); err != nil || reply.Accepted != 1 {
					t.Errorf("%+v, error %v", reply, err)
				}
			}
		})
	}
	group.Wait()
	running.stop()
	log := running.Log.String()
	if got := strings.Count(log, "Received new message"); got != producers*each {
		t.Errorf("the log has %d messages, want %d", got, producers*each)
	}
	if strings.Contains(log, "can't accept") {
		t.Errorf("the broker ran out of descriptors:\n%s", log)
	}
}

// Many clients connect at once, and half of them reset their connection. The broker answers
// each of the others, and closes all connections.
func TestManyConnections(t *testing.T) { eachLog(t, testManyConnections) }

func testManyConnections(t *testing.T, start starter) {
	broker := start(t, filepath.Join(t.TempDir(), "log"), "-interval", "10ms")
	before := broker.descriptors()
	count := bustest.LongOrShort(2000, 400)
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
				failures <- fmt.Errorf("connection %d: the reply is %q, %v, want %q",
					i, reply, err, accepted)
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
	// The Go runtime may have opened its poller's descriptor after the first count.
	bustest.Until(t, "the end of all connections", func() bool {
		return broker.descriptors() <= before+1
	})
	t.Logf("figure: %d connections at once, half of them reset: "+
		"%d accepted of %d, descriptors %d before and %d after",
		count, len(broker.Received("a")), count/2, before, broker.descriptors())
}
