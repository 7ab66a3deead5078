//go:build unix

package cmd_test

import (
	"bytes"
	"cmp"
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

// peer is another server that accepts messages. A benchmark sends it requests in its own
// protocol, over one connection. Each request has 1,000 messages of 128 bytes. The benchmark
// waits for the answers before it sends the next request.
type peer struct {
	name    string                                       // for the table
	program string                                       // looked up on the PATH
	start   func(path, port, directory string) *exec.Cmd // returns the server's command
	greet   func(connection net.Conn) error              // nil: no greeting is needed
	request string                                       // sends 1,000 messages
	reset   string                                       // deletes them; may be empty
	answer  string                                       // the beginning of each answer
	want    int                                          // the number of answers to a request
	count   int                                          // of messages in a request; 0: 1,000
}

// rpush is the beginning of an RPUSH to the key topic, in the protocol of Redis.
const rpush = "$5\r\nRPUSH\r\n$5\r\ntopic\r\n"

// redis returns Redis. A request has count messages, and is answered with want numbers.
func redis(name, request string, count, want int) peer {
	return peer{
		name:    name,
		program: "redis-server",
		start: func(path, port, directory string) *exec.Cmd {
			return exec.Command(path, "--bind", "127.0.0.1", "--port", port, "--dir", directory,
				"--save", "", "--appendonly", "no")
		},
		request: request,
		reset:   "*2\r\n$3\r\nDEL\r\n$5\r\ntopic\r\n",
		answer:  ":",
		want:    want,
		count:   count,
	}
}

// bulkRedis returns Redis, with count messages of data in one command.
func bulkRedis(data string, count int) peer {
	value := fmt.Sprintf("$%d\r\n%s\r\n", len(data), data)
	return redis(fmt.Sprintf("Redis, one RPUSH of %d messages", count),
		fmt.Sprintf("*%d\r\n", count+2)+rpush+strings.Repeat(value, count), count, 1)
}

// peers returns the servers that TestPeers compares the broker with. Each keeps the messages in
// memory, except nats-server: without a subscriber it discards them.
func peers() []peer {
	data := strings.Repeat("x", 128)
	single := redis("Redis, one RPUSH a message",
		strings.Repeat("*3\r\n"+rpush+"$128\r\n"+data+"\r\n", 1000), 1000, 1000)
	bulk := bulkRedis(data, 1000)
	nats := peer{
		name:    "nats-server, no JetStream",
		program: "nats-server",
		start: func(path, port, _ string) *exec.Cmd {
			return exec.Command(path, "-a", "127.0.0.1", "-p", port)
		},
		greet: func(connection net.Conn) error {
			_, err := io.WriteString(connection, "CONNECT {\"verbose\":false}\r\n")
			return err
		},
		request: strings.Repeat("PUB topic 128\r\n"+data+"\r\n", 1000) + "PING\r\n",
		answer:  "PONG\r\n",
		want:    1,
	}
	beanstalkd := peer{
		name:    "beanstalkd, one put a message",
		program: "beanstalkd",
		start: func(path, port, _ string) *exec.Cmd {
			return exec.Command(path, "-l", "127.0.0.1", "-p", port)
		},
		request: strings.Repeat("put 0 0 1 128\r\n"+data+"\r\n", 1000),
		answer:  "INSERTED ",
		want:    1000,
	}
	return []peer{single, bulk, nats, beanstalkd, mosquitto(data)}
}

// mosquitto returns mosquitto as a peer, at QoS 1, the lowest level at which it answers. It keeps
// the messages for a subscriber that has disconnected. Its default limit of 1,000 messages is
// lifted.
func mosquitto(data string) peer {
	const (
		connect   = "\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01s" // without a clean session
		subscribe = "\x82\x0a\x00\x01\x00\x05topic\x01"
	)
	publish := "\x32\x89\x01\x00\x05topic\x01\x01" + data
	return peer{
		name:    "mosquitto, QoS 1, max_queued_messages 0",
		program: "mosquitto",
		start: func(path, port, directory string) *exec.Cmd {
			config := filepath.Join(directory, "mosquitto.conf")
			text := "listener " + port + " 127.0.0.1\nallow_anonymous true\n" +
				"max_queued_messages 0\nset_tcp_nodelay true\n"
			os.WriteFile(config, []byte(text), 0o600)
			return exec.Command(path, "-c", config)
		},
		greet: func(connection net.Conn) error {
			subscriber, err := net.Dial("tcp", connection.RemoteAddr().String())
			if err != nil {
				return err
			}
			defer subscriber.Close()
			io.WriteString(subscriber, connect+subscribe)
			if _, err := io.ReadFull(subscriber, make([]byte, 9)); err != nil {
				return err
			}
			publisher := strings.Replace(connect, "\x01s", "\x01p", 1)
			if _, err := io.WriteString(connection, publisher); err != nil {
				return err
			}
			_, err = io.ReadFull(connection, make([]byte, 4))
			return err
		},
		request: strings.Repeat(publish, 1000),
		answer:  "\x40\x02",
		want:    1000,
	}
}

// TestPeers compares the rate at which the broker accepts messages with the rates of other
// servers that are on the PATH, and prints a table. "make bench" runs it.
func TestPeers(t *testing.T) {
	bustest.Benchmark(t)
	log := filepath.Join(logDirectory(t), "log")
	broker := startStore(t, log, "-interval", "200ms")
	payload := []byte(repeated(1000, "topic", strings.Repeat("x", 128)))
	const round = 150 * time.Millisecond
	ours := func() float64 {
		defer os.Remove(log) // the broker opens a new file
		return rate(t, broker.Address, payload, 1000, round)
	}
	fmt.Print("\n| the broker, 1,000 messages a payload, compared with | ratio (quartiles) |\n" +
		"| --- | --- |\n")
	for _, peer := range peers() {
		path, err := exec.LookPath(peer.program)
		if err != nil {
			t.Logf("NOT MEASURED: %s is not on the PATH", peer.program)
			continue
		}
		connection := peer.run(t, path)
		theirs := func() float64 { return peer.rate(t, connection, round) }
		ratios, _ := inTurn(10, ours, theirs)
		fmt.Printf("| %s | %s |\n", peer.name, ratios)
	}
}

// run starts the server, and returns a connection to it. The server and the connection end with
// the test.
func (p peer) run(t *testing.T, path string) net.Conn {
	t.Helper()
	address := bustest.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	command := p.start(path, port, t.TempDir())
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Signal(syscall.SIGKILL)
		command.Wait()
	})
	var connection net.Conn
	bustest.Until(t, p.name, func() (listens bool) {
		var err error
		connection, err = net.Dial("tcp", address)
		return err == nil
	})
	t.Cleanup(func() { connection.Close() })
	connection.SetDeadline(time.Now().Add(10 * bustest.Patience))
	if p.greet != nil {
		if err := p.greet(connection); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
	}
	return connection
}

// rate sends requests for about this duration. It returns the rate, in messages a second.
func (p peer) rate(t *testing.T, connection net.Conn, about time.Duration) float64 {
	t.Helper()
	sent := 0
	begin := time.Now()
	for time.Since(begin) < about {
		p.exchange(t, connection, p.request, p.want)
		sent += cmp.Or(p.count, 1000)
	}
	took := time.Since(begin)
	if p.reset != "" {
		p.exchange(t, connection, p.reset, 1)
	}
	return float64(sent) / took.Seconds()
}

// exchange sends a request, and waits for want answers.
func (p peer) exchange(t *testing.T, connection net.Conn, request string, want int) {
	t.Helper()
	if _, err := io.WriteString(connection, request); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	answers := make([]byte, 0, 64<<10)
	for bytes.Count(answers, []byte(p.answer)) < want {
		count, err := connection.Read(answers[len(answers):cap(answers)])
		if err != nil {
			t.Fatalf("%s: %v after the answers %q", p.name, err, answers)
		}
		answers = answers[:len(answers)+count]
	}
}
