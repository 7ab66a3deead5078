//go:build linux

package cmd_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// consumerRecipes returns the recipes of the consumer's manual page, and their programs.
func consumerRecipes(t *testing.T) []string {
	t.Helper()
	return manualDisplays(t, "mbus-consumer.1", "EXAMPLES", 12)
}

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
	kitchen.script("work", `mkdir "job$MBUS_JOB"; until test -e job4; do sleep 0.01; done`)
	worker := startConsumerCommand(t, kitchen.cook(consumerRecipes(t)[0]))
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
	recipes := consumerRecipes(t)
	for i, program := range map[int]string{1: "python3 worker.py", 3: "node worker.js"} {
		name := strings.Fields(program)
		tool(t, name[0])
		if lines := strings.Count(recipes[i], "\n"); lines != 5 {
			t.Errorf("%s has %d lines, want 5", name[1], lines)
		}
		kitchen, broker := newShop(t)
		if err := os.WriteFile(kitchen.path(name[1]), []byte(recipes[i]), 0o600); err != nil {
			t.Fatal(err)
		}
		worker := startConsumerCommand(t, kitchen.cook(recipes[i+1]))
		order(t, broker, "look ma!", "a \"new\"\torder", "żółw")
		bustest.Until(t, program, func() bool {
			return worker.Stderr.String() == "look ma!\na \"new\"\torder\nżółw\n"
		})
		kitchen.stop("consumer", worker)
		state := kitchen.path(strings.Fields(recipes[i+1])[4])
		delivers(t, "", "-log", kitchen.path("mbus.log"), "-state", state, "-end")
	}
}

// What fails goes to the topic failed, and back to its topic when the worker is mended.
func TestRecipeFailed(t *testing.T) {
	recipes := consumerRecipes(t)
	kitchen, broker := newShop(t)
	quick := strings.Replace(recipes[5], "-retry 1m", "-port "+broker.port, 1)
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
	kitchen.succeed(recipes[6])
	kitchen.has("handled", "good\nbad\nbetter\nbad\n")
	kitchen.succeed(recipes[6]) // there is nothing more
	order(t, broker, "last")
	kitchen.has("handled", "good\nbad\nbetter\nbad\nlast\n")
	kitchen.stop("consumer", worker)
}

// The manual page's recipe passes over one message that a worker can't handle.
func TestRecipeSkip(t *testing.T) {
	kitchen, broker := newShop(t)
	order(t, broker, "bad", "good")
	work := []string{"-log", kitchen.path("mbus.log"), "-state", kitchen.path("orders.state"),
		"-topic", "orders", "-end", "--", kitchen.path("work")}
	worker := consuming(work...)
	worker.Dir = kitchen.directory
	if status, _, stderr := finish(t, worker); status != 1 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	kitchen.succeed(consumerRecipes(t)[7])
	kitchen.has("skipped", "bad\n")
	worker = consuming(work...)
	worker.Dir = kitchen.directory
	if status, _, stderr := finish(t, worker); status != 0 || stderr != "" {
		t.Errorf("status %d: %s", status, stderr)
	}
	kitchen.has("handled", "bad\ngood\n")
}

// The manual page's worker pauses while the file pause is there.
func TestRecipePause(t *testing.T) {
	kitchen, broker := newShop(t)
	if err := os.WriteFile(kitchen.path("pause"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kitchen.script("bin/sleep", `echo "$1" >> slept; exec /bin/sleep 0.01`)
	worker := startConsumerCommand(t, kitchen.cook(consumerRecipes(t)[8]))
	order(t, broker, "good")
	kitchen.awaitText("slept", "1\n")
	if got, _ := os.ReadFile(kitchen.path("handled")); len(got) > 0 {
		t.Errorf("while it paused it handled %s", got)
	}
	if err := os.Remove(kitchen.path("pause")); err != nil {
		t.Fatal(err)
	}
	kitchen.has("handled", "good\n")
	kitchen.stop("consumer", worker)
}

// The manual page's message is sent when at(1) runs its job.
func TestRecipeAt(t *testing.T) {
	kitchen, broker := newShop(t)
	kitchen.script("bin/at", `test "$*" = "now + 1 hour" && cat > job`)
	kitchen.succeed(consumerRecipes(t)[9])
	if got := broker.Received("orders"); len(got) > 0 {
		t.Errorf("%q were sent at once", got)
	}
	kitchen.succeed("sh job")
	broker.Expect("Received new message from topic 'orders': 'a later order'")
}
