//go:build linux

package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// newShop returns a kitchen with a broker and its log mbus.log. Its script work appends the data
// to the file handled, and fails if the data is bad.
func newShop(t *testing.T) (kitchen, *brokerProcess) {
	t.Helper()
	broker := startStore(t, filepath.Join(t.TempDir(), "log"), "-interval", "0")
	kitchen := newKitchen(t, broker.port)
	kitchen.script("work", `data=$(cat); echo "$data" >> handled; test "$data" != bad`)
	if err := os.Symlink(string(broker.Log.(file)), kitchen.path("mbus.log")); err != nil {
		t.Fatal(err)
	}
	return kitchen, broker
}

// order sends messages to the topic orders.
func order(t *testing.T, broker *brokerProcess, messages ...string) {
	t.Helper()
	for _, message := range messages {
		if status, stderr := broker.produce("orders", message); status != 0 {
			t.Fatalf("status %d: %s", status, stderr)
		}
	}
}

// has waits until the file with this name has text, and nothing else.
func (k kitchen) has(name, text string) {
	k.t.Helper()
	bustest.Until(k.t, text+" alone in "+name, func() bool {
		got, _ := os.ReadFile(k.path(name))
		return string(got) == text
	})
}

// Four jobs of the manual page run at once.
func TestRecipeJobs(t *testing.T) {
	kitchen, broker := newShop(t)
	// Each of four waits for the others.
	kitchen.script("work", `mkdir "job$MBUS_JOB"
		until test -e job1 -a -e job2 -a -e job3 -a -e job4; do sleep 0.01; done`)
	recipe := example(t, "mbus-consumer.1", "Four jobs at once")
	worker := startConsumerCommand(t, kitchen.cook(recipe))
	order(t, broker, bustest.Numbers(1, 4)...)
	for job := range 4 {
		bustest.Until(t, "a job", func() bool {
			_, err := os.Stat(kitchen.path("job" + strconv.Itoa(job+1)))
			return err == nil
		})
	}
	kitchen.stop("consumer", worker)
}

// The manual page's persistent workers, in Python and Node.js, handle each message once. A message
// that is not in UTF-8 is one that they do not handle.
func TestRecipePersistent(t *testing.T) {
	for language, program := range map[string]string{
		"Python": "python3 worker.py", "Node.js": "node worker.js",
	} {
		name := strings.Fields(program)
		tool(t, name[0])
		recipe := manualDisplays(t, "mbus-consumer.1", "A persistent worker in "+language, 2)
		if lines := strings.Count(recipe[0], "\n"); lines != 5 {
			t.Errorf("%s has %d lines, want 5", name[1], lines)
		}
		kitchen, broker := newShop(t)
		if err := os.WriteFile(kitchen.path(name[1]), []byte(recipe[0]), 0o600); err != nil {
			t.Fatal(err)
		}
		worker := startConsumerCommand(t, kitchen.cook(recipe[1]))
		order(t, broker, "look ma!", "a \"new\"\torder", "żółw")
		bustest.Until(t, program, func() bool {
			return worker.Stderr.String() == "look ma!\na \"new\"\torder\nżółw\n"
		})
		kitchen.stop("consumer", worker)
		state := kitchen.path(strings.Fields(recipe[1])[4])
		delivers(t, "", "-log", kitchen.path("mbus.log"), "-state", state, "-end")
	}
}

// What fails goes to the topic failed, and back to its topic when the worker is mended.
func TestRecipeFailed(t *testing.T) {
	recipes := manualDisplays(t, "mbus-consumer.1", "A topic for what fails", 2)
	kitchen, broker := newShop(t)
	quick := strings.Replace(recipes[0], "-retry 1m", "-port "+broker.port, 1)
	worker := startConsumerCommand(t, kitchen.cook(quick))
	order(t, broker, "good", "bad", "better")
	kitchen.has("handled", "good\nbad\nbetter\n")
	if got := broker.Received("failed"); !slices.Equal(got, []string{"bad"}) {
		t.Errorf("on the topic failed: %q", got)
	}
	if said := withoutIDs(worker.Stderr.String()); !strings.HasSuffix(said, "consumer: message ID "+
		"on topic orders: ./work: exit status 1; sent to topic failed\n") {
		t.Errorf("it said %s", said)
	}
	kitchen.script("work", `data=$(cat); echo "$data" >> handled`)
	kitchen.succeed(recipes[1])
	kitchen.has("handled", "good\nbad\nbetter\nbad\n")
	kitchen.succeed(recipes[1]) // there is nothing more
	order(t, broker, "last")
	kitchen.has("handled", "good\nbad\nbetter\nbad\nlast\n")
	kitchen.stop("consumer", worker)
}

// The manual page's recipe passes over a message that a worker can't handle, and later over
// another. It keeps both.
func TestRecipeSkip(t *testing.T) {
	kitchen, broker := newShop(t)
	kitchen.script("work", `data=$(cat); echo "$data" >> handled; test "${data#bad}" = "$data"`)
	order(t, broker, "bad 1", "good", "bad 2", "better")
	work := func(want int) {
		t.Helper()
		worker := consuming("-log", kitchen.path("mbus.log"),
			"-state", kitchen.path("orders.state"), "-topic", "orders", "-end",
			"--", kitchen.path("work"))
		worker.Dir = kitchen.directory
		status, _, stderr := finish(t, worker)
		if status != want || (stderr == "") != (want == 0) {
			t.Fatalf("status %d, want %d: %s", status, want, stderr)
		}
	}
	skip := example(t, "mbus-consumer.1", "Passing over one message")
	work(1)
	kitchen.succeed(skip)
	work(1)
	kitchen.succeed(skip)
	work(0)
	kitchen.has("orders.skipped", "bad 1\nbad 2\n")
	kitchen.has("handled", "bad 1\ngood\nbad 2\nbetter\n")
}

// The manual page's mended worker handles again what was written since a time. Where it fails, it
// continues. The position of the worker stays.
func TestRecipeAgain(t *testing.T) {
	kitchen := newKitchen(t, "1")
	var text strings.Builder
	for hour := 8; hour <= 12; hour++ {
		line := strings.Replace(inLog("orders", fmt.Sprint(hour, " o'clock")),
			"2024/06/02 10:39:55", fmt.Sprintf("2026/11/24 %02d:00:00", hour), 1)
		text.WriteString(line)
	}
	if err := os.WriteFile(kitchen.path("mbus.log"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	recipe := example(t, "mbus-consumer.1", "Handling messages again")
	const done = `echo "$(cat)" >> handled`
	kitchen.script("work", `test "$MBUS_TIME" != 2026-11-24T11:00:00 && `+done)
	quick := strings.Replace(recipe, "-retry 1m", "", 1)
	if status, _, stderr := finish(t, kitchen.cook(quick)); status != 1 {
		t.Errorf("status %d: %s", status, stderr)
	}
	kitchen.has("handled", "10 o'clock\n")
	kitchen.script("work", done)
	kitchen.succeed(recipe)
	kitchen.has("handled", "10 o'clock\n11 o'clock\n12 o'clock\n")
	kitchen.succeed(recipe) // there is nothing more
	kitchen.has("handled", "10 o'clock\n11 o'clock\n12 o'clock\n")
}

// The manual page's worker pauses while the file orders.pause is there. When the consumer is killed
// meanwhile, the command that it leaves behind ends, and handles nothing.
func TestRecipePause(t *testing.T) {
	kitchen, broker := newShop(t)
	if err := os.WriteFile(kitchen.path("orders.pause"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kitchen.script("bin/sleep", `echo "$1" >> slept; exec /bin/sleep 0.01`)
	recipe := example(t, "mbus-consumer.1", "Pausing a worker")
	startConsumerCommand(t, kitchen.cook(recipe))
	order(t, broker, "good")
	kitchen.awaitText("slept", "1\n")
	killed := kitchen.await("consumer", 0)
	syscall.Kill(killed, syscall.SIGKILL)
	worker := startConsumerCommand(t, kitchen.cook(recipe))
	kitchen.await("consumer", killed)
	time.Sleep(300 * time.Millisecond) // in which the first command ends
	if got, _ := os.ReadFile(kitchen.path("handled")); len(got) > 0 {
		t.Errorf("while it paused it handled %s", got)
	}
	if err := os.Remove(kitchen.path("orders.pause")); err != nil {
		t.Fatal(err)
	}
	kitchen.has("handled", "good\n")
	kitchen.stop("consumer", worker)
	kitchen.has("handled", "good\n")
}

// The manual page's message is sent when at(1) runs its job.
func TestRecipeAt(t *testing.T) {
	kitchen, broker := newShop(t)
	kitchen.script("bin/at", `test "$*" = "now + 1 hour" && cat > job`)
	kitchen.succeed(example(t, "mbus-producer.1", "A message at a later time"))
	if got := broker.Received("orders"); len(got) > 0 {
		t.Errorf("%q were sent at once", got)
	}
	kitchen.succeed("sh job")
	broker.Expect("Received new message from topic 'orders': 'a later order'")
}
