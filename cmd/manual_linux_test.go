package cmd_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mbus/internal/shared/bustest"
)

// The commands of the README's quick start print what it shows. The log is the one that it shows,
// but for the times and the port.
func TestReadmeQuickStart(t *testing.T) {
	blocks := bustest.Blocks(t, "../README.md", "Quick start", "console")
	if len(blocks) != 3 {
		t.Fatalf("the quick start has %d blocks, want 3", len(blocks))
	}
	commands := regexp.MustCompile(`(?m)^\$ (.*)\n`).FindAllStringSubmatch(blocks[0]+blocks[1], -1)
	if len(commands) != 4 || commands[0][1] != "make" {
		t.Fatalf("the commands of the quick start are %q, want 4, the first one make", commands)
	}
	_, wantMessage, _ := strings.Cut(blocks[1], commands[3][0])
	port := freePort(t)
	kitchen := newKitchen(t, port)
	broker := startConsumerCommand(t, kitchen.cook(commands[1][1]))
	kitchen.awaitText("mbus.log", "listening")
	kitchen.succeed(commands[2][1])
	startConsumerCommand(t, kitchen.cook(commands[3][1])).has(wantMessage)

	stamp := regexp.MustCompile(`(?m)^\S+ \S+ `)
	id := regexp.MustCompile(`log [0-9a-f]{16}:`) // is random
	_, want, _ := strings.Cut(blocks[2], "$ cat mbus.log\n")
	want = strings.Replace(stamp.ReplaceAllString(want, ""), "9990", port, 1)
	got := stamp.ReplaceAllString(file(kitchen.path("mbus.log")).String(), "")
	got, want = id.ReplaceAllString(got, "log:"), id.ReplaceAllString(want, "log:")
	if got != want {
		t.Errorf("the log is\n%s, want\n%s", got, want)
	}
	kitchen.stop("broker", broker)
}

// Without systemd, the loop in the manual page starts a killed broker again, and ends when the
// broker is stopped. The page's commands check its health and rotate its log.
func TestManualOperation(t *testing.T) {
	service := manualDisplays(t, "mbus-broker.8", "SERVICE", 4)[1:3]
	rotation := manualDisplays(t, "mbus-broker.8", "ROTATION", 1)[0]
	const log = "/var/log/mbus.log"
	if strings.Count(service[0], log) != 1 {
		t.Fatalf("%s must have the log %s", service[0], log)
	}
	kitchen := newKitchen(t, freePort(t))
	loop := startConsumerCommand(t, kitchen.cook(strings.Replace(service[0], log, "mbus.log", 1)))
	ping := strings.TrimSpace(service[1])
	kitchen.succeed(ping + " -retry 20s") // the broker is starting

	killed := kitchen.await("broker", 0)
	syscall.Kill(killed, syscall.SIGKILL)
	kitchen.await("broker", killed)
	kitchen.succeed(ping + " -retry 20s")

	send := "mbus-producer -topic t -message "
	kitchen.succeed(send + "before")
	kitchen.awaitText("mbus.log", "'before'")
	kitchen.succeed(rotation)
	kitchen.succeed(send + "after")
	kitchen.awaitText("mbus.log", "'after'")
	const receive = "mbus-consumer -log mbus.log -end"
	if got := kitchen.succeed(receive); got != "before\nafter\n" {
		t.Errorf("after the rotation the consumer wrote %q", got)
	}
	kitchen.stop("broker", loop) // also ends the loop
}

// The manual page's broker has a message on disk when it has accepted it.
func TestManualDurable(t *testing.T) {
	recipe := example(t, "mbus-broker.8", "Nothing accepted is lost, even in a power loss")
	kitchen := newKitchen(t, freePort(t))
	startConsumerCommand(t, kitchen.cook(recipe))
	kitchen.succeed("mbus-producer -topic t -message x -retry 20s")
	syscall.Kill(kitchen.await("broker", 0), syscall.SIGKILL)
	if got := kitchen.succeed("mbus-consumer -log mbus.log -end"); got != "x\n" {
		t.Errorf("the log of the killed broker has %q, want x", got)
	}
}

// ssh takes the manual page's tunnel, which leads from the default port to the default port.
func TestManualTunnel(t *testing.T) {
	tool(t, "ssh")
	recipe := manualDisplays(t, "mbus-broker.8", "TUNNELS", 4)[0]
	show := strings.Replace(recipe, "ssh ", "ssh -G -F none ", 1) // prints the configuration
	output, err := exec.Command("sh", "-c", show).Output()
	const forward = "\nlocalforward 9990 [127.0.0.1]:9990\n"
	if err != nil || !strings.Contains(string(output), forward) {
		t.Errorf("%s: %v: the configuration has no %q:\n%s", show, err, forward, output)
	}
}

// The README and the manual page have the same example of a worker's environment. With it, the
// command line of the unit runs the command.
func TestManualWorker(t *testing.T) {
	example := bustest.Blocks(t, "../README.md", "As a service", "ini")
	display := manualDisplays(t, "mbus-consumer.1", "WORKERS", 1)
	if !slices.Equal(display, example) {
		t.Errorf("the README has the environment %q, the manual page %q", example, display)
	}
	kitchen := newKitchen(t, freePort(t))
	kitchen.script("handle-order", `echo "$@ $(cat)" >> handled`)
	line := setting(t, "../build/package/mbus-consumer@.service", "ExecStart")
	for _, change := range [][2]string{
		{"/usr/local/bin/mbus-", "mbus-"},
		{"/var/lib/mbus/", ""},
		{"/var/lib/mbus-consumer/%i", "orders"},
	} {
		if strings.Count(line, change[0]) != 1 {
			t.Fatalf("the unit's ExecStart is %s, want %s once", line, change[0])
		}
		line = strings.Replace(line, change[0], change[1], 1)
	}
	log := inLog("orders", "a cup")
	if err := os.WriteFile(kitchen.path("mbus.log"), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	worker := kitchen.cook(line)
	for variable := range strings.Lines(strings.Replace(example[0], "/usr/local/bin", ".", 1)) {
		worker.Env = append(worker.Env, strings.TrimSuffix(variable, "\n"))
	}
	running := startConsumerCommand(t, worker)
	kitchen.awaitText("handled", "--quick a cup\n")
	kitchen.stop("consumer", running)
}
