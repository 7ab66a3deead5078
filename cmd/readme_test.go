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

// recipes are shell commands of the documents, which are run in a directory of their own, with a
// broker.
type recipes struct {
	t         *testing.T
	directory string
	broker    *brokerProcess
	log       string // the text of the logs of stopped brokers
}

// readmeRecipes returns the blocks of shell commands in a section of the README. It fails the test
// unless there are count of them.
func readmeRecipes(t *testing.T, title string, count int) []string {
	t.Helper()
	return counted(t, title, bustest.Blocks(t, "../README.md", title, "sh"), count)
}

// manualDisplays returns the literal displays in a section of a manual page. It fails the test
// unless there are count of them.
func manualDisplays(t *testing.T, page, title string, count int) []string {
	t.Helper()
	displays := bustest.Displays(t, "../build/package/man/"+page, title)
	return counted(t, page+", "+title, displays, count)
}

// example returns the only display in a subsection of a manual page's examples.
func example(t *testing.T, page, title string) string {
	t.Helper()
	return manualDisplays(t, page, title, 1)[0]
}

func counted(t *testing.T, place string, texts []string, count int) []string {
	t.Helper()
	if len(texts) != count {
		t.Fatalf("%s has %d recipes or displays, want %d", place, len(texts), count)
	}
	return texts
}

// Each test that the README names exists.
func TestReadmeTests(t *testing.T) {
	var tests strings.Builder
	for _, pattern := range []string{
		"*_test.go", "forwarder/*_test.go",
		"../internal/*/*_test.go", "../internal/shared/*/*_test.go",
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
	name := regexp.MustCompile("`(Test\\w+)`")
	names := name.FindAllStringSubmatch(bustest.Section(t, "../README.md", "Promises"), -1)
	if len(names) < 10 {
		t.Errorf("the README names %d tests, want at least 10", len(names))
	}
	for _, name := range names {
		if !strings.Contains(tests.String(), "\nfunc "+name[1]+"(t *testing.T)") {
			t.Errorf("the README names %s, but no such test exists", name[1])
		}
	}
}

// The file orders.txt has the numbers up to orders, and as line 1001 one that is too large.
const orders = 500_000

// The recipes for sending, of the README and the producer's manual page, work as they are printed.
func TestRecipes(t *testing.T) {
	sending := readmeRecipes(t, "Sending", 3)
	loop, output, follow := sending[0], sending[1], sending[2]
	records := example(t, "mbus-producer.1", "Sending the rows of a CSV file")
	recipes := newRecipes(t)
	recipes.finish(loop)
	recipes.finish(output)
	if stderr := recipes.finish(records); parseReport(t, stderr).accepted != 3 {
		t.Errorf("%s\nstandard error is %q, want 3 messages accepted", records, stderr)
	}
	recipes.followThroughRotation(follow)
	long := manualDisplays(t, "mbus-producer.1", "Sending a long file", 2)
	recipes.sendLongFile(long[0], long[1])
	recipes.checkLog()
}

// newRecipes starts a broker. It makes the files that the recipes send, and the producer that
// they run.
func newRecipes(t *testing.T) *recipes {
	t.Helper()
	recipes := &recipes{t: t, directory: t.TempDir()}
	recipes.broker = startAt(t, bustest.FreeAddress(t), "-max-payload", "20000")
	recipes.write("app.log", "a\n", 0o600)
	recipes.write("orders.csv", "number,item\n1,cup\n2,\"big\nspoon\"\n", 0o600)
	lines := slices.Insert(bustest.Numbers(1, orders), 1000, strings.Repeat("x", 16_000_001))
	recipes.write("orders.txt", strings.Join(lines, "\n")+"\n", 0o600)
	if err := os.Mkdir(filepath.Join(recipes.directory, "build"), 0o700); err != nil {
		t.Fatal(err)
	}
	// The recipes assume the default port, but the broker has another. The producer has the
	// name that "make install" gives it: the recipes must also work with that name in its
	// output.
	installed := filepath.Join(recipes.directory, "mbus-producer")
	if err := os.Symlink(filepath.Join(binaries, "producer"), installed); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' -port %s \"$@\"\n",
		installed, recipes.broker.port)
	recipes.write("build/producer", script, 0o700)
	recipes.write("build/mbus-producer", script, 0o700)
	return recipes
}

// write writes a file in the directory of the recipes.
func (r *recipes) write(name, text string, mode os.FileMode) {
	r.t.Helper()
	path := filepath.Join(r.directory, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
}

// command returns the command that runs a recipe, in a process group of its own.
func (r *recipes) command(text string) *exec.Cmd {
	command := exec.Command("sh", "-c", text)
	command.Dir = r.directory
	path := filepath.Join(r.directory, "build")
	command.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return command
}

// finish runs a recipe until it ends. It fails the test unless the status is 0. Only a recipe
// with -lines may write to standard error.
func (r *recipes) finish(text string) (stderr string) {
	r.t.Helper()
	status, _, stderr := finish(r.t, r.command(text))
	if status != 0 || stderr != "" && !strings.Contains(text, "-lines") {
		r.t.Errorf("%s\nended with status %d: %s", text, status, stderr)
	}
	return stderr
}

// followThroughRotation runs the recipe that follows app.log. While the recipe runs, it renames
// that file and writes a new one.
func (r *recipes) followThroughRotation(text string) {
	t := r.t
	t.Helper()
	command := r.command(text)
	bustest.Start(t, command)
	defer syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	await := func(count int) {
		t.Helper()
		bustest.Until(t, "the message of a line in app.log", func() bool {
			const line = "new message dispatched on topic app\n"
			return strings.Count(r.broker.Log.String(), line) == count
		})
	}
	await(1)
	path := filepath.Join(r.directory, "app.log")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	r.write("app.log", "b\n", 0o600)
	await(2)
}

// sendLongFile runs the recipe that sends orders.txt, and stops it in the middle. Then it runs the
// recipe that continues with the line that the summary names.
func (r *recipes) sendLongFile(all, rest string) {
	t := r.t
	t.Helper()
	directory := filepath.Join(r.directory, "temporary") // for mktemp
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	interrupted := r.command(all)
	interrupted.Env = append(interrupted.Env, "TMPDIR="+directory)
	process := bustest.Start(t, interrupted)
	batch := regexp.MustCompile(`\d{3} new messages dispatched on topic orders\n`)
	bustest.Until(t, "a batch of orders", func() bool {
		return batch.MatchString(r.broker.Log.String())
	})
	syscall.Kill(-interrupted.Process.Pid, syscall.SIGINT) // as Ctrl-C does
	process.Wait()
	said := process.Stderr.String()
	const leftOut = "left out: line 1001\n"
	next := regexp.MustCompile(`from line (\d+) on: `).FindStringSubmatch(said)
	if !strings.HasPrefix(said, leftOut) || next == nil {
		t.Fatalf("%s\nsaid %s, want first %s and a line to continue with", all, said, leftOut)
	}

	files, err := filepath.Glob(filepath.Join(directory, "*"))
	if err != nil || len(files) != 1 || strings.Count(rest, "571759") != 1 {
		t.Fatalf("%s\nhas %q to send, %v", rest, files, err)
	}
	command := r.command(strings.Replace(rest, "571759", next[1], 1))
	command.Env = append(command.Env, "file="+files[0])
	if status, _, stderr := finish(t, command); status != 0 {
		t.Errorf("%s\nended with status %d: %s", rest, status, stderr)
	}
	r.stopBroker()
}

// stopBroker stops the broker, and keeps the text of its log.
func (r *recipes) stopBroker() {
	r.t.Helper()
	r.broker.stop()
	r.log += r.broker.Log.String()
}

// checkLog compares the messages in the logs with those that the recipes sent.
func (r *recipes) checkLog() {
	t := r.t
	t.Helper()
	received := bustest.Received(t, r.log)
	records := []string{"1,cup", `2,"big`, `spoon"`}
	for topic, want := range map[string][]string{
		"files":  {"app.log", "build", "mbus-producer", "orders.csv", "orders.txt"},
		"app":    {"a", "b"},
		"orders": append(records, bustest.Numbers(1, orders)...),
	} {
		if got := received[topic]; !slices.Equal(got, want) {
			t.Errorf("the log has %d messages on the topic %s, want %d in order: %.300s",
				len(got), topic, len(want), fmt.Sprintf("%q", got))
		}
	}
	if got := received["disk"]; len(got) != 1 || !strings.HasPrefix(got[0], "Filesystem") {
		t.Errorf("the messages on the topic disk are %q, want one that begins with Filesystem", got)
	}
}
