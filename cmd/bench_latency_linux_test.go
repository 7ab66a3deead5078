package cmd_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// route is a way of messages: what sends one, and the output of the command that receives it.
type route struct {
	name string
	send func(message string)
	came chan time.Time // when each line came that has a message
	all  samples        // milliseconds
}

// newRoute starts a command that receives messages.
func newRoute(t *testing.T, name string, command *exec.Cmd, send func(string)) *route {
	t.Helper()
	reader, writer := io.Pipe()
	command.Stdout = writer
	startGroup(t, command)
	route := &route{name: name, send: send, came: make(chan time.Time, 1000)}
	go func() {
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "message ") {
				route.came <- time.Now()
			}
		}
	}()
	// The command may not have subscribed yet, and some peers drop what nobody receives.
	bustest.Until(t, name, func() bool {
		route.send("message to begin with")
		select {
		case <-route.came:
			return true
		case <-time.After(300 * time.Millisecond):
			return false
		}
	})
	for {
		select {
		case <-route.came:
		case <-time.After(300 * time.Millisecond):
			return route
		}
	}
}

// one sends a message, and adds the time until it came.
func (r *route) one(t *testing.T, number int) {
	begin := time.Now()
	r.send(fmt.Sprint("message ", number))
	select {
	case then := <-r.came:
		r.all = append(r.all, then.Sub(begin).Seconds()*1000)
	case <-time.After(bustest.Patience):
		t.Fatalf("%s: message %d did not come", r.name, number)
	}
}

// ours returns the routes through the log alone, and through a broker.
func ours(t *testing.T) []*route {
	alone := filepath.Join(logDirectory(t), "mbus.log")
	file, err := os.Create(alone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	file.WriteString(bustest.FirstLine(t, alone))
	log := filepath.Join(logDirectory(t), "mbus.log")
	broker := startStore(t, log, "-interval", "0")
	return []*route{
		newRoute(t, "consumer alone, from a write of one line into its log",
			consuming("-log", alone),
			func(message string) { file.WriteString(inLog("t", message)) }),
		newRoute(t, "broker -interval 0 and consumer", consuming("-log", log),
			func(message string) {
				if _, err := broker.Post(bustest.Payload("t", message)); err != nil {
					t.Fatal(err)
				}
			}),
	}
}

// receivers returns for each peer the command that receives the messages on its port.
func receivers() map[string]func(port string) *exec.Cmd {
	return map[string]func(port string) *exec.Cmd{
		"redis-server": func(port string) *exec.Cmd {
			return exec.Command("redis-cli", "-p", port, "subscribe", "topic")
		},
		"nats-server": func(port string) *exec.Cmd {
			return exec.Command("nats", "-s", "127.0.0.1:"+port, "sub", "--raw", "topic")
		},
		"mosquitto": func(port string) *exec.Cmd {
			return exec.Command("mosquitto_sub", "-p", port, "-t", "topic")
		},
	}
}

// request returns what sends a message to a peer, without an acknowledgement.
func request(program, message string) string {
	switch size := len(message); program {
	case "redis-server":
		return fmt.Sprintf("*3\r\n$7\r\nPUBLISH\r\n$5\r\ntopic\r\n$%d\r\n%s\r\n", size, message)
	case "nats-server":
		return fmt.Sprintf("PUB topic %d\r\n%s\r\n", size, message)
	default: // mosquitto, at QoS 0
		return fmt.Sprintf("\x30%c\x00\x05topic%s", 7+size, message)
	}
}

// theirs returns the routes through the peers whose server and command are on the PATH. Each
// message is sent over a connection that is there already.
func theirs(t *testing.T) (routes []*route) {
	commands := receivers()
	for _, peer := range peers() {
		receive, isNew := commands[peer.program]
		delete(commands, peer.program) // Redis is in the list twice
		if !isNew {
			continue
		}
		path, err := exec.LookPath(peer.program)
		if err == nil {
			_, err = exec.LookPath(receive("").Args[0])
		}
		if err != nil {
			t.Logf("NOT MEASURED: %s: %v", peer.program, err)
			continue
		}
		connection := peer.run(t, path)
		go io.Copy(io.Discard, connection)
		_, port, _ := net.SplitHostPort(connection.RemoteAddr().String())
		routes = append(routes, newRoute(t, peer.program+" and its command", receive(port),
			func(message string) { io.WriteString(connection, request(peer.program, message)) }))
	}
	return routes
}

// TestLatency measures the time from a message's sending until a command has written it, in turn
// with the peers that are on the PATH, and what a consumer costs that waits. "make bench" runs it.
func TestLatency(t *testing.T) {
	bustest.Benchmark(t)
	routes := append(ours(t), theirs(t)...)
	for number := range 300 {
		for _, route := range routes {
			pause(5 * time.Millisecond)
			route.one(t, number)
		}
	}
	fmt.Print("\n| from a message's sending to a command's output | median ms | 99th |\n" +
		"| --- | --- | --- |\n")
	for _, route := range routes {
		fmt.Printf("| %s | %.2f | %.2f |\n",
			route.name, route.all.quantile(0.5), route.all.quantile(0.99))
	}
	if median := routes[0].all.quantile(0.5); median > 1.5 {
		t.Errorf("the consumer alone takes %.2f ms, target <= 1.5", median)
	}
	const idle = 10 * time.Second
	store := newLogAndState(t, "x")
	command := consuming(store.with()...)
	waiting := startGroup(t, command)
	pause(idle)
	waiting.Signal(syscall.SIGTERM)
	waiting.Wait()
	state := command.ProcessState
	share := 100 * (state.UserTime() + state.SystemTime()).Seconds() / idle.Seconds()
	t.Logf("figure: a consumer that waits takes %.2f %% of a core, its start included, "+
		"target <= 0.3", share)
	if share > 0.3 {
		t.Errorf("a consumer that waits takes %.2f %% of a core", share)
	}
}
