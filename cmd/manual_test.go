//go:build unix

package cmd_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mbus/internal/shared/bustest"
)

// manuals returns the paths of the manual pages.
func manuals(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../build/package/man/*.[0-9]")
	if err != nil || len(paths) != 4 {
		t.Fatalf("the manual pages are %q, %v, want 4", paths, err)
	}
	return paths
}

// mandoc finds nothing to report in the manual pages.
func TestManualLint(t *testing.T) {
	mandoc := tool(t, "mandoc")
	for _, path := range manuals(t) {
		output, err := exec.Command(mandoc, "-Tlint", path).CombinedOutput()
		if err != nil || len(output) > 0 {
			t.Errorf("%s: %v\n%s", path, err, output)
		}
	}
}

// Each literal display is shown as the text that the tests run, so that readers can copy it.
func TestManualDisplays(t *testing.T) {
	mandoc := tool(t, "mandoc")
	overstrike := regexp.MustCompile(".\b")
	title := regexp.MustCompile(`(?m)^\.Sh (.*)$`)
	for _, path := range manuals(t) {
		output, err := exec.Command(mandoc, "-Tutf8", path).Output()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		shown := make(map[string]bool)
		for line := range strings.Lines(overstrike.ReplaceAllString(string(output), "")) {
			shown[strings.TrimSpace(line)] = true
		}
		for _, section := range title.FindAllStringSubmatch(bustest.Read(t, path), -1) {
			for _, display := range bustest.Displays(t, path, section[1]) {
				for line := range strings.Lines(display) {
					if line = strings.TrimSpace(line); line != "" && !shown[line] {
						t.Errorf("%s does not show the line %s", path, line)
					}
				}
			}
		}
	}
}

// The manual page's program in Python prints the data of all messages in a log, as a consumer
// does. The page's line of a message is one for a consumer.
func TestManualDecoder(t *testing.T) {
	displays := manualDisplays(t, "mbus-broker.8", "THE LOG", 3)
	line, program := displays[0], displays[2]
	consumer := command("consumer", "-topic", "orders")
	consumer.Stdin = strings.NewReader(line)
	if status, stdout, stderr := finish(t, consumer); status != 0 || stdout != "look ma!\n" {
		t.Errorf("%s: status %d, %q, %s", line, status, stdout, stderr)
	}
	python := tool(t, "python3")
	var all strings.Builder
	for b := range 256 {
		all.WriteByte(byte(b))
	}
	directory := t.TempDir()
	broker := startStore(t, filepath.Join(directory, "mbus.log"))
	messages := []string{
		"", "'", `\n`, "a': 'b", all.String(), "注\u2028\U000e0001\u200b🐢\xff", "x\r",
	}
	broker.Accept(bustest.Payload("a': '\\b", messages...), len(messages))
	broker.stop()
	command := exec.Command(python, "-c", program)
	command.Dir = directory
	output, err := command.CombinedOutput()
	if want := strings.Join(messages, "\n") + "\n"; err != nil || string(output) != want {
		t.Errorf("the program printed %q, %v, want %q", output, err, want)
	}
}

// The manual page's bytes are a payload and its reply. The client in Python works as it is printed,
// and prints what the page shows.
func TestManualProtocol(t *testing.T) {
	displays := manualDisplays(t, "mbus-broker.8", "PROTOCOL", 4)
	specification, example, client, want := displays[0], displays[1], displays[2], displays[3]

	show := exec.Command("sh", "-c", specification)
	show.Dir = ".."
	if output, err := show.Output(); err != nil || !strings.Contains(string(output), "# Payload") {
		t.Errorf("%s: %v: %s", specification, err, output)
	}

	broker := startBroker(t, "-interval", "10ms")
	var lines [][]byte // the payload and the reply
	for line := range strings.Lines(example) {
		decoded, err := hex.DecodeString(strings.Join(strings.Fields(line), ""))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, decoded)
	}
	connection := broker.Dial()
	connection.End(string(lines[0]))
	reply, err := io.ReadAll(connection)
	if err != nil || !bytes.Equal(reply, lines[1]) {
		t.Errorf("the reply to %q is %q, %v, want %q", lines[0], reply, err, lines[1])
	}
	broker.Expect("Received new message from topic 'orders': 'hi'")

	python := tool(t, "python3")
	client = strings.Replace(client, "9990", broker.port, 1)
	output, err := exec.Command(python, "-c", client).CombinedOutput()
	if err != nil || string(output) != want {
		t.Errorf("the client printed %q, %v, want %q", output, err, want)
	}
	broker.Expect("Received new message from topic 'orders': 'hello from Python'")
}
