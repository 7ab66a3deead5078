package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// supervise is a shell script that runs its arguments as a command. It runs the command again
// whenever it ends, as systemd does, until the file $0.stop exists. It writes the process id of
// the running command to $0.pid, and appends each exit status to $0.statuses. The command's
// standard error is appended to $0.stderr.
const supervise = `while [ ! -e "$0.stop" ]; do
	"$@" 2>> "$0.stderr" & echo $! > "$0.pid.new"; mv "$0.pid.new" "$0.pid"
	wait $!; echo $? >> "$0.statuses"
	sleep 0.5
done`

// system is a directory in which a broker and a worker run, each supervised. "make install" has
// installed both.
type system struct {
	t       *testing.T
	release *release
	log     string // the path of the broker's log
	port    string // the broker's port

	broker, worker *service
}

// newSystem installs a system, and starts its services. The worker has the topic t.
func newSystem(t *testing.T) *system {
	t.Helper()
	release, directory := newRelease(t, "broker", "producer", "consumer"), t.TempDir()
	release.mustMake("install")
	system := &system{t: t, release: release, log: filepath.Join(directory, "mbus.log")}
	_, system.port, _ = strings.Cut(bustest.FreeAddress(t), ":")
	system.broker = system.start("broker", "mbus-broker.service",
		strings.NewReplacer("/var/lib/mbus", directory, "/run/mbus", directory, "$MBUS_FLAGS", ""),
		"-pport", system.port)
	system.worker = system.start("worker", "mbus-consumer@.service", strings.NewReplacer(
		"/var/lib/mbus-consumer/%i", directory+"/orders", "/var/lib/mbus", directory,
		"$MBUS_FLAGS", "-topic t -retry 1h", "$MBUS_COMMAND", system.work()))
	return system
}

// service is a command of a system that is supervised.
type service struct {
	system *system
	path   string           // the value of $0 in supervise
	loop   *bustest.Process // the shell that runs supervise
}

// path returns the path of a file in the system's directory.
func (s *system) path(name string) string {
	return filepath.Join(filepath.Dir(s.log), name)
}

// start starts a service with the command line of an installed unit. The replacer replaces the
// directories and variables of the command line, and more arguments are appended.
func (s *system) start(
	name, unit string, replacer *strings.Replacer, more ...string,
) *service {
	s.t.Helper()
	unit = s.release.path("dest/usr/local/lib/systemd/system/" + unit)
	arguments := strings.Fields(replacer.Replace(setting(s.t, unit, "ExecStart")))
	arguments[0] = s.release.path("dest" + arguments[0])
	service := &service{system: s, path: s.path(name)}
	arguments = append([]string{"-c", supervise, service.path}, append(arguments, more...)...)
	service.loop = startGroup(s.t, exec.Command("sh", arguments...))
	return service
}

// signal sends a signal to the service's process, if one runs.
func (s *service) signal(kind syscall.Signal) {
	id, err := strconv.Atoi(strings.TrimSpace(file(s.path + ".pid").String()))
	if err == nil {
		syscall.Kill(id, kind)
	}
}

// end stops the service and its supervision.
func (s *service) end() {
	s.system.t.Helper()
	if err := os.WriteFile(s.path+".stop", nil, 0o600); err != nil {
		s.system.t.Fatal(err)
	}
	bustest.Until(s.system.t, "the end of "+s.path, func() bool {
		s.signal(syscall.SIGTERM)
		select {
		case <-s.loop.Ended:
			return true
		case <-time.After(2 * time.Second): // an earlier second signal might kill the process
			return false
		}
	})
}

// statuses returns the exit statuses of the service's processes, in order.
func (s *service) statuses() []string {
	return strings.Fields(file(s.path + ".statuses").String())
}

// send sends the numbers from 1 as messages, one after the other, until ended is closed. It
// returns how many messages were accepted, and how many were sent again because their outcome
// was unknown.
func (s *system) send(ended <-chan struct{}) (accepted, again int, err error) {
	for !isClosed(ended) {
		producer := exec.Command(s.release.path("dest/usr/local/bin/mbus-producer"),
			"-port", s.port, "-topic", "t", "-message", strconv.Itoa(accepted+1),
			"-retry", "1m")
		output, err := producer.CombinedOutput()
		switch status := producer.ProcessState.ExitCode(); {
		case status == 0:
			accepted++
		case status == 3:
			again++
		default:
			return accepted, again, fmt.Errorf("%w: %s", err, output)
		}
		time.Sleep(10 * time.Millisecond) // for a steady load that leaves the machine some time
	}
	return accepted, again, nil
}

// count waits until the broker is up, and checks that its counts add up.
func (s *system) count() {
	s.t.Helper()
	ping := exec.Command(s.release.path("dest/usr/local/bin/mbus-producer"),
		"-ping", "-port", s.port, "-retry", "1m")
	if output, err := ping.CombinedOutput(); err != nil {
		s.t.Errorf("the ping failed: %v: %s", err, output)
	}
	metrics(s.t, s.path("broker.prom"))
}

// work makes the worker's command, and returns its path. The command appends the data of a
// message to the file done. It does so in one write, because the command of a killed worker may
// run beside that of the next worker.
func (s *system) work() string {
	s.t.Helper()
	path := s.path("work")
	text := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"$(cat)\" >> '%s'\n", s.path("done"))
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// TestDay runs a day of operation in ten minutes. In the short form a minute takes a second. Each
// minute it rotates the log with the shipped configuration and looks at the counts. It stops and
// kills the broker and the worker once each. No message is lost or out of order. A message may be
// repeated only if a kill left its outcome unknown.
func TestDay(t *testing.T) {
	t.Parallel() // the test sleeps for most of its time
	logrotate := tool(t, "logrotate")
	system := newSystem(t)
	load := system.load()
	const minutes = 10
	minute := time.Duration(bustest.LongOrShort(60, 1)) * time.Second
	directory := filepath.Dir(system.log)
	configuration := rotation(t, system.release.path("dest/etc/logrotate.d/mbus"), directory)
	for i := range minutes {
		time.Sleep(minute)
		mustRun(t, logrotate, "-f", "-s", filepath.Join(directory, "rotated"), configuration)
		switch i {
		case 1:
			system.broker.signal(syscall.SIGTERM)
		case 3:
			system.broker.signal(syscall.SIGKILL)
		case 5:
			system.worker.signal(syscall.SIGTERM)
		case 7:
			system.worker.signal(syscall.SIGKILL)
		}
		system.count()
	}
	// stopped, killed, and stopped at the end
	system.check(load, "0", "137", "0")
}

// sending is a producer that sends messages to a system, one after the other.
type sending struct {
	over            chan struct{} // closed: the producer must end
	sent            chan error    // gets the producer's error, or nil, at its end
	accepted, again int           // see send
}

// load starts to send.
func (s *system) load() *sending {
	sending := &sending{over: make(chan struct{}), sent: make(chan error, 1)}
	go func() {
		var err error
		sending.accepted, sending.again, err = s.send(sending.over)
		sending.sent <- err
	}()
	return sending
}

// check ends the sending, waits until the worker has done all its messages, and stops the system.
// It fails the test unless both services ended with these statuses, one after the other, and each
// message was done.
func (s *system) check(load *sending, statuses ...string) {
	t := s.t
	t.Helper()
	close(load.over)
	if err := <-load.sent; err != nil {
		t.Fatal(err)
	}
	bustest.Until(t, "the last message", func() bool {
		done := file(s.path("done")).String()
		return strings.HasSuffix(done, fmt.Sprintf("\n%d\n", load.accepted))
	})
	s.worker.end()
	s.broker.end()
	for _, service := range []*service{s.broker, s.worker} {
		if got := service.statuses(); !slices.Equal(got, statuses) {
			t.Errorf("%s ended with the statuses %q, want %q: %s", service.path, got, statuses,
				file(service.path+".stderr"))
		}
	}
	s.checkWork(load.accepted, load.again)
}

// checkWork compares the messages that the worker has done with those that were accepted.
func (s *system) checkWork(accepted, again int) {
	t := s.t
	t.Helper()
	done := strings.Fields(file(s.path("done")).String())
	next, repeated := 1, 0
	for _, text := range done {
		switch number, err := strconv.Atoi(text); {
		case err != nil || number > next:
			t.Fatalf("the worker has done %q after message %d, want %d", text, next-1, next)
		case number == next:
			next++
		default:
			repeated++
		}
	}
	const kills = 1 // kills of the worker; each may repeat a message
	if next-1 != accepted || repeated > again+kills {
		t.Errorf("the worker has done %d messages and repeated %d, "+
			"want %d done and at most %d repeated", next-1, repeated, accepted, again+kills)
	}
	t.Logf("%d messages accepted and done, %d sent again, %d done again", accepted, again, repeated)
}
