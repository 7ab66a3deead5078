//go:build unix

package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mbus/internal/shared/bustest"
)

// section returns a section of the README.
func section(t *testing.T, title string) string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "\n## "+title+"\n")
	if !found {
		t.Fatalf("the README has no section %s", title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// shellRecipes returns the shell commands of a section of the README, which has count.
func shellRecipes(t *testing.T, title string, count int) []string {
	t.Helper()
	var recipes []string
	block := regexp.MustCompile("(?s)```sh\n(.*?)```")
	for _, recipe := range block.FindAllStringSubmatch(section(t, title), -1) {
		recipes = append(recipes, recipe[1])
	}
	if len(recipes) != count {
		t.Fatalf("the section %s has %d recipes, want %d", title, len(recipes), count)
	}
	return recipes
}

// The README's program in Python reads a log as a consumer does.
func TestReadmeDecoder(t *testing.T) {
	python := tool(t, "python3")
	_, program, _ := strings.Cut(section(t, "Receiving"), "```python\n")
	program, _, _ = strings.Cut(program, "```")
	var all strings.Builder
	for b := range 256 {
		all.WriteByte(byte(b))
	}
	directory := t.TempDir()
	broker := startStore(t, filepath.Join(directory, "mbus.log"))
	messages := []string{"", "'", `\n`, "a': 'b", all.String(), "注\u2028\U000e0001\u200b🐢\xff", "x\r"}
	broker.Accept(bustest.Payload("a': '\\b", messages...), len(messages))
	broker.stop()
	command := exec.Command(python, "-c", program)
	command.Dir = directory
	output, err := command.CombinedOutput()
	if want := strings.Join(messages, "\n") + "\n"; err != nil || string(output) != want {
		t.Errorf("%v: printed %q, want %q", err, output, want)
	}
}

// Each test that the README names is there.
func TestReadmeTests(t *testing.T) {
	var tests strings.Builder
	for _, pattern := range []string{
		"*_test.go", "forwarder/*_test.go", "../internal/*/*_test.go", "../internal/shared/*/*_test.go",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(text)
		}
	}
	names := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(section(t, "Guarantees and limits"), -1)
	if len(names) < 10 {
		t.Errorf("the README names %d tests", len(names))
	}
	for _, name := range names {
		if !strings.Contains(tests.String(), "\nfunc "+name[1]+"(t *testing.T)") {
			t.Errorf("there is no %s", name[1])
		}
	}
}

// The README's client in Python works as it is printed.
func TestReadmeClient(t *testing.T) {
	python := tool(t, "python3")
	_, rest, _ := strings.Cut(section(t, "The protocol"), "```python\n")
	client, rest, found := strings.Cut(rest, "```\n\nprints `")
	want, _, _ := strings.Cut(rest, "`.\n")
	if !found {
		t.Fatal("the README has no client")
	}
	broker := startBroker(t, "-interval", "10ms")
	client = strings.Replace(client, "9990", broker.port, 1)
	output, err := exec.Command(python, "-c", client).CombinedOutput()
	if err != nil || string(output) != want+"\n" {
		t.Errorf("%v: printed %s, want %s", err, output, want)
	}
	broker.Expect("Received new message from topic 'orders': 'hello from Python'")
}

// recipes runs the README's shell commands in a directory of their own, with a
// broker.
type recipes struct {
	t         *testing.T
	directory string
	broker    *daemon
	log       string // of the brokers that were stopped
}

// orders is how many lines the file orders.txt has.
const orders = 500_000

// The README's recipes work as they are printed.
func TestRecipes(t *testing.T) {
	texts := shellRecipes(t, "Sending", 5)
	recipes := newRecipes(t)
	loop, all, follow, records, resume := texts[0], texts[1], texts[2], texts[3], texts[4]
	recipes.finish(loop)
	recipes.finish(all)
	if stderr := recipes.finish(records); parseReport(t, stderr).accepted != 3 {
		t.Errorf("%s\n%s", records, stderr)
	}
	recipes.followThroughRotation(follow)
	recipes.resumeAfterRestart(resume)
	recipes.checkLog()
}

// newRecipes makes the files that the recipes send, starts a broker, and puts a
// producer where the recipes look for it.
func newRecipes(t *testing.T) *recipes {
	t.Helper()
	recipes := &recipes{t: t, directory: t.TempDir()}
	recipes.broker = startAt(t, bustest.FreeAddress(t), "-max-payload", "20000")
	recipes.write("app.log", "a\n", 0o600)
	recipes.write("orders.csv", "number,item\n1,cup\n2,\"big\nspoon\"\n", 0o600)
	recipes.write("orders.txt", strings.Join(bustest.Numbers(1, orders), "\n")+"\n", 0o600)
	if err := os.Mkdir(filepath.Join(recipes.directory, "build"), 0o700); err != nil {
		t.Fatal(err)
	}
	// The broker is on another port than the recipes assume. The producer has its name after
	// make install, which the recipes must understand too.
	installed := filepath.Join(recipes.directory, "mbus-producer")
	if err := os.Symlink(filepath.Join(binaries, "producer"), installed); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' -port %s \"$@\"\n",
		installed, recipes.broker.port)
	recipes.write("build/producer", script, 0o700)
	return recipes
}

func (recipes *recipes) write(name, text string, mode os.FileMode) {
	recipes.t.Helper()
	path := filepath.Join(recipes.directory, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		recipes.t.Fatal(err)
	}
}

// command returns the command that runs a recipe, in a process group of its own.
func (recipes *recipes) command(text string) *exec.Cmd {
	command := exec.Command("sh", "-c", text)
	command.Dir = recipes.directory
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return command
}

// finish runs a recipe to its end, which must be a success.
func (recipes *recipes) finish(text string) (stderr string) {
	recipes.t.Helper()
	status, _, stderr := finish(recipes.t, recipes.command(text))
	if status != 0 || stderr != "" && !strings.Contains(text, "-lines") {
		recipes.t.Errorf("%s\nstatus %d: %s", text, status, stderr)
	}
	return stderr
}

// followThroughRotation runs the recipe that follows app.log, which is renamed and
// made anew meanwhile.
func (recipes *recipes) followThroughRotation(text string) {
	t := recipes.t
	t.Helper()
	command := recipes.command(text)
	start(t, command)
	defer syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	await := func(count int) {
		t.Helper()
		bustest.Until(t, "a line of the log that is followed", func() bool {
			const line = "new message dispatched on topic app\n"
			return strings.Count(recipes.broker.Log.String(), line) == count
		})
	}
	await(1)
	path := filepath.Join(recipes.directory, "app.log")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	recipes.write("app.log", "b\n", 0o600)
	await(2)
}

// resumeAfterRestart runs the recipe that sends orders.txt and goes on where that
// ended. The broker is restarted in between.
func (recipes *recipes) resumeAfterRestart(text string) {
	t := recipes.t
	t.Helper()
	command := recipes.command(text)
	stderr := start(t, command)
	batch := regexp.MustCompile(`\d{3} new messages dispatched on topic orders\n`)
	bustest.Until(t, "a batch of orders", func() bool {
		return batch.MatchString(recipes.broker.Log.String())
	})
	recipes.stopBroker()
	bustest.Until(t, "a failure", func() bool {
		said, _ := os.ReadFile(filepath.Join(recipes.directory, "summary"))
		return len(said) > 0
	})
	recipes.broker = startAt(t, recipes.broker.Address)
	command.Wait()
	got := parseReport(t, stderr.String())
	if command.ProcessState.ExitCode() != 0 || got.accepted == 0 || got.accepted >= orders {
		t.Errorf("%s\n%v: %s", text, command.ProcessState, stderr)
	}
	recipes.stopBroker()
}

func (recipes *recipes) stopBroker() {
	recipes.t.Helper()
	recipes.broker.stop()
	recipes.log += recipes.broker.Log.String()
}

// checkLog compares what the brokers have logged with what the recipes sent.
func (recipes *recipes) checkLog() {
	t := recipes.t
	t.Helper()
	received := bustest.Received(t, recipes.log)
	records := []string{"1,cup", `2,"big`, `spoon"`}
	for topic, want := range map[string][]string{
		"files":  {"app.log", "build", "mbus-producer", "orders.csv", "orders.txt"},
		"app":    {"a", "b"},
		"orders": append(records, bustest.Numbers(1, orders)...),
	} {
		if got := received[topic]; !slices.Equal(got, want) {
			t.Errorf("%s: %d messages are in the log, want %d, or in another order: %.300q",
				topic, len(got), len(want), got)
		}
	}
	if got := received["disk"]; len(got) != 1 || !strings.HasPrefix(got[0], "Filesystem") {
		t.Errorf("disk: %q", got)
	}
}
