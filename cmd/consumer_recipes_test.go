//go:build linux

package cmd_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
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

// kitchen is a directory in which the documents' recipes run unchanged.
type kitchen struct {
	t         *testing.T
	directory string
}

// newKitchen makes a directory with the commands, by their names in a clone, such as
// build/producer, and by their installed names. The broker listens on this port, and the producer
// sends to it. The broker's interval is short, so that the test is short.
func newKitchen(t *testing.T, port string) kitchen {
	t.Helper()
	kitchen := kitchen{t, t.TempDir()}
	for name, flag := range map[string]string{
		"broker": "-interval 100ms -pport " + port, "producer": "-port " + port, "consumer": "",
	} {
		text := fmt.Sprintf("exec '%s/%s' %s \"$@\"", binaries, name, flag)
		kitchen.script("build/"+name, text)
		kitchen.script("bin/mbus-"+name, text)
	}
	return kitchen
}

// script writes a shell script to the file with this name.
func (k kitchen) script(name, text string) {
	k.t.Helper()
	path := filepath.Join(k.directory, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		k.t.Fatal(err)
	}
}

// path returns the path of a file in the directory.
func (k kitchen) path(name string) string {
	return filepath.Join(k.directory, name)
}

// cook returns the command that runs a recipe, not started.
func (k kitchen) cook(recipe string) *exec.Cmd {
	command := exec.Command("sh", "-c", recipe)
	command.Dir = k.directory
	command.Env = append(os.Environ(), "PATH="+k.path("bin")+":"+os.Getenv("PATH"))
	return command
}

// await waits for a process of this kitchen that runs a program, other than the killed one, and
// returns its id.
func (k kitchen) await(program string, killed int) (pid int) {
	k.t.Helper()
	bustest.Until(k.t, "a "+program, func() bool {
		entries, _ := filepath.Glob("/proc/[0-9]*/cwd")
		for _, entry := range entries {
			process := filepath.Dir(entry)
			directory, _ := os.Readlink(entry)
			executable, _ := os.Readlink(process + "/exe")
			number, _ := strconv.Atoi(filepath.Base(process))
			isHere := directory == k.directory
			if isHere && executable == filepath.Join(binaries, program) && number != killed {
				pid = number
			}
		}
		return pid != 0
	})
	return pid
}

// awaitText waits until the file with this name has text.
func (k kitchen) awaitText(name, text string) {
	k.t.Helper()
	bustest.Until(k.t, text+" in "+name, func() bool {
		return strings.Contains(file(k.path(name)).String(), text)
	})
}

// succeed runs a recipe, and returns its standard output. It fails the test unless the status is
// 0 and standard error is empty.
func (k kitchen) succeed(recipe string) string {
	k.t.Helper()
	status, stdout, stderr := finish(k.t, k.cook(recipe))
	if status != 0 || stderr != "" {
		k.t.Errorf("%s\nended with status %d: %s", recipe, status, stderr)
	}
	return stdout
}

// hasOpened reports whether a process has opened a file in the directory. Before that, a signal can
// come before the process handles signals.
func (k kitchen) hasOpened(pid int) bool {
	descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, descriptor := range descriptors {
		if path, _ := os.Readlink(descriptor); strings.HasPrefix(path, k.directory+"/") {
			return true
		}
	}
	return false
}

// stop stops the program, which a running recipe has started. It fails the test unless the recipe
// then ends with status 0.
func (k kitchen) stop(program string, recipe *consumerProcess) {
	k.t.Helper()
	pid := k.await(program, 0)
	bustest.Until(k.t, "an open file of the "+program, func() bool { return k.hasOpened(pid) })
	syscall.Kill(pid, syscall.SIGTERM)
	if status := recipe.Wait(); status != 0 {
		k.t.Errorf("the recipe ended with status %d: %s", status, recipe.Stderr)
	}
}

// freePort returns a port of the loopback interface on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	_, port, _ := strings.Cut(bustest.FreeAddress(t), ":")
	return port
}

// The README's worker loses no order and handles them in order while it and the broker are
// killed in turn.
func TestRecipeWorker(t *testing.T) {
	recipe := readmeRecipes(t, "Workers", 1)[0]
	address := bustest.FreeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	kitchen := newKitchen(t, port)
	kitchen.script("work", `data=$(cat); echo "$data" >> handled`)
	log := kitchen.path("mbus.log")
	start := func() *brokerProcess { return startStoreAt(t, address, log, "-interval", "0") }
	broker := start()
	worker := startConsumerCommand(t, kitchen.cook(recipe))

	sent := 0
	handled := func() []string {
		text, _ := os.ReadFile(kitchen.path("handled"))
		return strings.Fields(string(text))
	}
	send := func(count int) {
		t.Helper()
		for range count {
			// The broker may not listen yet. It is not killed before this ends.
			status, _, stderr := run(t, "producer", "-port", port, "-retry", "20s",
				"-topic", "orders", "-message", fmt.Sprint(sent))
			if status != 0 {
				t.Fatalf("status %d: %s", status, stderr)
			}
			sent++
		}
	}
	kills := max(bustest.LongOrShort(40, 4), 6)
	for kill := range kills {
		send(1 + rand.IntN(8))
		time.Sleep(time.Duration(rand.Int64N(int64(30 * time.Millisecond))))
		if kill%2 == 0 {
			broker.Kill()
			broker = start()
			continue
		}
		killed := kitchen.await("consumer", 0)
		syscall.Kill(killed, syscall.SIGKILL)
		kitchen.await("consumer", killed)
	}
	last := strconv.Itoa(sent - 1)
	bustest.Until(t, "the last order", func() bool { return slices.Contains(handled(), last) })
	twice := handledAgain(t, handled())
	if twice > kills/2 {
		t.Errorf("%d orders were handled twice, after %d kills of the worker", twice, kills/2)
	}
	t.Logf("figure: the README's worker and the broker killed in turn, %d times: "+
		"%d orders, all handled, in order, %d twice", kills, sent, twice)
	kitchen.stop("consumer", worker) // also ends the loop
}

// handledAgain returns how many of the orders were handled before. It fails the test if an order
// is missing or out of order.
func handledAgain(t *testing.T, orders []string) (again int) {
	t.Helper()
	next := 0
	for _, order := range orders {
		switch number, err := strconv.Atoi(order); {
		case err == nil && number == next:
			next++
		case err == nil && number < next:
			again++ // perhaps by the command of a consumer that was killed
		default:
			t.Fatalf("order %q was handled, want %d", order, next)
		}
	}
	return again
}

// The documents' pipelines print the messages.
func TestRecipePipelines(t *testing.T) {
	recipes := readmeRecipes(t, "Receiving", 2)
	toJQ, overSSH := recipes[0], recipes[1]
	compressed := example(t, "mbus-consumer.1", "Reading a compressed log")
	kitchen := newKitchen(t, "1")
	text := inLog("orders", "look ma!\na new order") +
		inLog("other", "no") + inLog("orders", "another")
	if err := os.WriteFile(kitchen.path("mbus.log"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	writer := gzip.NewWriter(&archive)
	writer.Write([]byte(text))
	writer.Close()
	old := kitchen.path("mbus.log-20261124.gz")
	if err := os.WriteFile(old, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}

	const both = "look ma!\na new order\nanother\n"
	writes := func(recipe, want string) {
		t.Helper()
		status, stdout, stderr := finish(t, kitchen.cook(recipe))
		if status != 0 || stdout != want || stderr != "" {
			t.Errorf("%s\nstatus %d, wrote %q, said %s", recipe, status, stdout, stderr)
		}
	}
	kitchen.script("work", `cat; echo`)
	writes(compressed, both)
	if _, err := exec.LookPath("jq"); err != nil {
		t.Log("there is no jq to run the recipe with")
	} else {
		const stamp = "2024-06-02T10:39:55 "
		writes(toJQ, stamp+"look ma!\na new order\n"+stamp+"another\n")
	}

	// This ssh runs the command in this directory.
	kitchen.script("bin/ssh", `test "$1" = shop && shift && exec "$@"`)
	remote := startConsumerCommand(t, kitchen.cook(overSSH))
	remote.has(both)
	path := kitchen.path("mbus.log")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(inLog("orders", "third")), 0o600); err != nil {
		t.Fatal(err)
	}
	remote.has(both + "third\n")
}
