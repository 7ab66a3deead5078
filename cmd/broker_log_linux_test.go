package cmd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// When the log has filled the disk, rotating it and removing the old file makes room. The broker
// then writes the messages that it has kept.
func TestFullDiskIsRotated(t *testing.T) {
	t.Parallel()
	directory := smallDisk(t, "256k")
	path := filepath.Join(directory, "log")
	broker := startStore(t, path, "-interval", "10ms")
	const count = 3000
	broker.acceptNumbered(count)
	var old string
	removed := 0
	last := fmt.Sprintf("writer0 %d ", count-1)
	for !strings.Contains(broker.Log.String(), last) {
		bustest.Until(t, "a full disk, or the last message", func() bool {
			var disk syscall.Statfs_t
			log := broker.Log.String()
			return syscall.Statfs(directory, &disk) == nil && disk.Bavail == 0 && log != "" ||
				strings.Contains(log, last)
		})
		if strings.Contains(broker.Log.String(), last) {
			break
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		text := file(path + ".1").String()
		old += text[:strings.LastIndexByte(text, '\n')+1]
		if err := os.Remove(path + ".1"); err != nil {
			t.Fatal(err)
		}
		removed++
	}
	broker.stop()
	sum := verify(t, old+broker.Log.String(), []*writer{{name: "writer0", acked: count}}, false)
	if removed == 0 {
		t.Error("the log has all messages, but the disk was never full")
	}
	t.Logf("figure: a full disk, %d times rotated and the old file removed: %d messages accepted, "+
		"%d lost, %d twice, none torn", removed, sum.acked, sum.lost, sum.extra)
}

// smallDisk returns a directory on a disk of this size, such as 256k. It skips the test if the
// disk can't be mounted.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	directory := t.TempDir()
	if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small disk can't be mounted: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(directory, 0) })
	return directory
}

// A broker has permission to write its log, but not to create a file in its directory. After a
// rotation it keeps the messages until it has that permission.
func TestPermissions(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can start a broker as another user")
	}
	const user = 65534 // the user id needs no name
	directory, err := os.MkdirTemp("", "mbus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	path := filepath.Join(directory, "log")
	err = errors.Join(os.Chmod(binaries, 0o755), os.Chmod(directory, 0o755),
		os.WriteFile(path, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	asUser := func() *exec.Cmd {
		broker := command("broker", "-interval", "10ms")
		broker.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: user, Gid: user},
		}
		return broker
	}
	refused := asUser()
	refused.Args = append(refused.Args, "-pport", "0", "-log", path)
	want := "broker: open " + path + ": permission denied\n"
	if status, _, stderr := finish(t, refused); status != 1 || stderr != want {
		t.Errorf("without permission the broker ended with status %d and standard error %q, "+
			"want 1 and %q", status, stderr, want)
	}

	if err := os.Chown(path, user, user); err != nil {
		t.Fatal(err)
	}
	broker := startStoreCommand(t, bustest.FreeAddress(t), path, asUser())
	finish := broker.load(2, 10)
	pause(60 * time.Millisecond)
	log := &rotations{path: path}
	log.rotate(t)
	bustest.Until(t, "the line about the permission", func() bool {
		return strings.HasSuffix(broker.Stderr.String(), "open "+path+": permission denied\n")
	})
	pause(60 * time.Millisecond)
	if err := os.Chown(directory, user, user); err != nil {
		t.Fatal(err)
	}
	log.awaitFile(t)
	pause(60 * time.Millisecond)
	broker.stop()
	sum := verify(t, joinFiles(t, log.files()), finish(), false)
	t.Logf("figure: a log that can't be created again for a time: %d acknowledged messages, "+
		"%d of them lost, %d twice, none torn", sum.acked, sum.lost, sum.extra)
}

// strace returns the command of a broker under strace, and the path of the trace. With -D the
// tracer is a separate process, so that the broker receives the test's signals.
func strace(t *testing.T, options ...string) (broker *exec.Cmd, trace string) {
	t.Helper()
	program := tool(t, "strace")
	trace = filepath.Join(t.TempDir(), "trace")
	if err := exec.Command(program, "-D", "-o", trace, "true").Run(); err != nil {
		t.Skipf("strace can't trace a process: %v", err)
	}
	broker = command("broker", "-interval", "0", "-sync")
	arguments := append([]string{program, "-D", "-f", "-s", "300", "-o", trace}, options...)
	broker.Args = append(append(arguments, broker.Path), broker.Args[1:]...)
	broker.Path = program
	return broker, trace
}

// The broker syncs each message to disk before it sends the reply. It also syncs the directory
// after it has opened the log.
func TestSyncBeforeReply(t *testing.T) {
	t.Parallel()
	broker, trace := strace(t, "-e", "trace=write,fsync,fdatasync")
	path := filepath.Join(t.TempDir(), "log")
	store := startStoreCommand(t, bustest.FreeAddress(t), path, broker)
	const count = 20
	for i := range count {
		store.Accept(bustest.Payload("t", fmt.Sprint(i)), 1)
	}
	store.stop()
	// strace writes a call that another thread's call interrupts on two lines: "unfinished" and
	// "resumed".
	synced := regexp.MustCompile(`(fdatasync\(\d+\)|fdatasync resumed>.*\)) += 0`)
	directory := regexp.MustCompile(`(fsync\(\d+\)|fsync resumed>.*\)) += 0`)
	replies, onDisk, named := 0, true, false
	for line := range strings.Lines(file(trace).String()) {
		switch {
		case directory.MatchString(line) && !synced.MatchString(line):
			named = true
		case strings.Contains(line, "Received new message"):
			onDisk = false
		case synced.MatchString(line):
			onDisk = true
		case strings.Contains(line, `Accepted\1`):
			replies++
			if !onDisk || !named {
				t.Errorf("at reply %d the message is synced: %v, the directory is synced: %v",
					replies, onDisk, named)
			}
		}
	}
	if replies != count {
		t.Errorf("the trace has %d replies, want %d:\n%.2000s", replies, count, file(trace))
	}
}

// After a sync has failed, the broker accepts no message. It ends with status 1 and one line.
func TestFailedSyncs(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]string{
		// A thread's first fdatasync may be the one after the log was opened.
		"the drain's":     "fdatasync:error=EIO:when=2+",
		"the directory's": "fsync:error=EIO",
		"the new file's":  "fdatasync:error=EIO",
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			first, second := filepath.Join(directory, "1"), filepath.Join(directory, "2")
			path, link := filepath.Join(directory, "log"), filepath.Join(directory, "link")
			err := errors.Join(os.Mkdir(first, 0o700), os.Mkdir(second, 0o700),
				os.Symlink("1/log", path), os.Symlink("2/log", link))
			if err != nil {
				t.Fatal(err)
			}
			failing := filepath.Join(second, "log")
			if name == "the directory's" {
				failing = second
			} else if name == "the drain's" {
				failing = filepath.Join(first, "log")
			}
			broker, _ := strace(t,
				"-e", "trace=fsync,fdatasync", "-P", failing, "-e", "inject="+fault)
			store := startStoreCommand(t, bustest.FreeAddress(t), path, broker)
			if name != "the drain's" {
				if err := os.Rename(link, path); err != nil {
					t.Fatal(err)
				}
			}
			status := 0
			bustest.Until(t, "a message that is not accepted", func() bool {
				status, _ = store.produce("t", "1")
				return status != 0
			})
			if got := store.Wait(); got != 1 || status == 2 {
				t.Errorf("the broker ended with status %d, want 1, and the producer with %d",
					got, status)
			}
			words := regexp.MustCompile(`^broker: messages not written: \d: not on disk: ` +
				`sync .*: input/output error\n$`)
			if !words.MatchString(store.Stderr.String()) {
				t.Errorf("standard error is %q, want a match of %q", store.Stderr, words)
			}
		})
	}
}
