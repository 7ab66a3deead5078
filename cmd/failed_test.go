//go:build unix

package cmd_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// All that fails for good is on the topic of -failed in the end, however often the consumer and the
// broker are killed, and the rest is delivered.
func TestFailedInterrupted(t *testing.T) {
	t.Parallel()
	const fails = `read -r number rest; test $((number % 3)) != 0 && echo $number >> "$0"`
	const persistent = `number=${data%% *}; test $((number % 3)) != 0 || {
		echo "failed $id it is a third"; continue; }`
	for name, flags := range map[string][]string{
		"commands":            {"-jobs", "3", "--", "sh", "-c", fails},
		"persistent commands": {"-jobs", "3", "-persistent", "--", "sh", "-c", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kills := bustest.LongOrShort(60, 6)
			messages := bustest.Numbers(0, 5*kills)
			store := newLogAndState(t, messages...)
			done, address := store.state+".done", bustest.FreeAddress(t)
			_, port, _ := net.SplitHostPort(address)
			log := filepath.Join(t.TempDir(), "broker.log")
			arguments := []string{"-topic", "t", "-failed", "failed", "-port", port}
			arguments = append(arguments, flags...)
			if flags[2] == "-persistent" {
				arguments[len(arguments)-1] = fmt.Sprintf(answering, persistent, "")
			}
			arguments = append(arguments, done)
			start := func() *brokerProcess {
				return startStoreAt(t, address, log, "-interval", "0")
			}
			broker := start()
			for kill := range kills {
				interruptConsumer(t, store.with(arguments...)...)
				if kill%3 == 0 {
					broker.Kill()
					interruptConsumer(t, store.with(arguments...)...)
					broker = start()
				}
			}
			rest := consuming(store.with(append([]string{"-end"}, arguments...)...)...)
			if output, err := rest.CombinedOutput(); err != nil {
				t.Fatalf("the last run: %v: %s", err, output)
			}
			sent := broker.Received("failed")
			for number := range len(messages) {
				text := fmt.Sprint(number)
				isHandled := func() bool {
					return strings.Contains("\n"+file(done).String(), "\n"+text+"\n") ||
						strings.Contains("\n"+file(done).String(), "\n"+text+" ")
				}
				if number%3 == 0 && !slices.Contains(sent, text) {
					t.Errorf("message %s has failed, and is not on the topic", text)
				} else if number%3 != 0 {
					bustest.Until(t, "message "+text, isHandled)
				}
			}
			t.Logf("figure: %d kills with -failed and %s: %d messages, none missing, "+
				"%d sent %d times", kills, name, len(messages), (len(messages)+2)/3, len(sent))
		})
	}
}

// interruptConsumer starts a consumer and kills it at a random moment, whatever it reports.
func interruptConsumer(t *testing.T, arguments ...string) {
	t.Helper()
	c := startConsumer(t, arguments...)
	pause(150 * time.Millisecond)
	syscall.Kill(-c.Command.Process.Pid, syscall.SIGKILL)
	c.Wait()
}

// While the broker is away, a message that failed is sent again and again. One line says so. At a
// stop the message is not passed over.
func TestFailedWhileBrokerIsAway(t *testing.T) {
	t.Parallel()
	store := newLogAndState(t, "0", "1")
	address := bustest.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	arguments := store.with("-topic", "t", "-failed", "failed", "-port", port, "-jobs", "2",
		"--", "false")
	c := startConsumer(t, arguments...)
	bustest.Until(t, "a line", func() bool { return c.Stderr.String() != "" })
	want := "consumer: message ID on topic t: sending to topic failed: " + address +
		": not accepted: connect: connection refused; retrying\n"
	if got := withoutIDs(c.Stderr.String()); got != want {
		t.Errorf("it said %s, want %s", got, want)
	}
	c.Signal(syscall.SIGTERM)
	if status := c.Wait(); status != 0 || withoutIDs(c.Stderr.String()) != want {
		t.Errorf("status %d: %s", status, c.Stderr)
	}

	c = startConsumer(t, append([]string{"-end"}, arguments...)...)
	time.Sleep(300 * time.Millisecond) // in which it fails
	broker := startStoreAt(t, address, filepath.Join(t.TempDir(), "log"), "-interval", "0")
	if status := c.Wait(); status != 0 {
		t.Errorf("status %d: %s", status, c.Stderr)
	}
	sent := broker.Received("failed")
	if slices.Sort(sent); !slices.Equal(sent, []string{"0", "1"}) {
		t.Errorf("on the topic failed: %q", sent)
	}
	if text := withoutIDs(c.Stderr.String()); strings.Count(text,
		"consumer: message ID on topic t: false: exit status 1; sent to topic failed\n") != 2 {
		t.Errorf("it said %s", text)
	}
}

// A message whose command can't be run, or is stopped with the consumer, is not sent to the topic.
func TestFailedIsTheMessages(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, "-interval", "10ms")
	store := newLogAndState(t, "0", "1")
	with := func(script string) []string {
		return store.with("-topic", "t", "-failed", "failed", "-port", broker.port,
			"--", "sh", "-c", script)
	}
	for _, script := range []string{"exit 126", "exit 127"} {
		if status, _, stderr := consume(t, with(script)...); status != 1 {
			t.Errorf("status %d: %s", status, stderr)
		}
	}
	c := startConsumer(t, with("echo; exec sleep 1000")...)
	c.has("\n")
	syscall.Kill(-c.Command.Process.Pid, syscall.SIGTERM)
	if status := c.Wait(); status != 0 || c.Stderr.String() != "" {
		t.Errorf("status %d: %s", status, c.Stderr)
	}
	if got := broker.Received("failed"); len(got) > 0 {
		t.Errorf("on the topic failed: %q", got)
	}
	delivers(t, "0\n1\n", store.with("-end")...)
}

// -host takes the path of a broker's socket. Any data is sent as it was.
func TestFailedData(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "mbus.sock")
	log := filepath.Join(t.TempDir(), "broker.log")
	broker := startLogged(t, command("broker", "-phost", socket, "-interval", "0", "-log", log),
		constant("Broker: listening on "+socket+"\n"))
	broker.Log = file(log)
	messages := []string{"", "\x00\xff\n'\\", strings.Repeat("x", 1<<20)}
	store := newLogAndState(t, messages...)
	status, _, stderr := consume(t, store.with("-end", "-topic", "t", "-failed", "f",
		"-host", socket, "--", "false")...)
	if status != 0 || strings.Count(stderr, "sent to topic f\n") != 3 {
		t.Errorf("status %d: %s", status, stderr)
	}
	_, stdout, _ := consume(t, "-log", log, "-end", "-topic", "f", "-format", "nul")
	if stdout != strings.Join(messages, "\x00")+"\x00" {
		t.Errorf("%d bytes were sent: %.100q", len(stdout), stdout)
	}
}
