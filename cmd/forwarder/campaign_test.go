//go:build unix

package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mbus/internal/shared/bustest"
)

// Kills of the forwarder at random moments, under load and while the log is rotated, lose
// and repeat nothing.
func TestKill(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	killUnderLoad(engine, source)
	finish(engine, source, stream)
	compare(t, stream, source.count)
}

// The same holds while a worker removes the messages from the stream.
func TestKillWorkQueue(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy})
	worker := work(t, stream)
	killUnderLoad(engine, source)
	process := engine.forward(source)
	await(t, stream, source.count, process)
	process.Signal(syscall.SIGTERM)
	if status, reported := process.Wait(), process.Stderr.String(); status != 0 ||
		reported != "" && !strings.Contains(reported, "they count as the log's") {
		t.Errorf("status %d; it reported:\n%s", status, reported)
	}
	worker.compare(t, source.count)
}

// killUnderLoad starts and kills forwarders, one after the other, under load.
func killUnderLoad(engine *engine, source *source) {
	engine.t.Helper()
	stop := source.load()
	kills := bustest.LongOrShort(200, 20)
	for range kills {
		process := engine.forward(source)
		time.Sleep(rand.N(400 * time.Millisecond)) // the moment
		process.Kill()
	}
	stop()
	engine.t.Logf("%d kills of the forwarder: %d messages", kills, source.count)
}

// finish forwards the messages that the stream does not have yet.
func finish(engine *engine, source *source, stream jetstream.Stream) {
	engine.t.Helper()
	process := engine.forward(source)
	await(engine.t, stream, source.count, process)
	process.stop()
}

// SIGTERM under load ends the forwarder with status 0, and the state has the stream's end.
func TestTerminate(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	stop := source.load()
	stops := bustest.LongOrShort(100, 10)
	for range stops {
		process := engine.forward(source)
		awaitProgress(t, stream, process)
		time.Sleep(rand.N(100 * time.Millisecond)) // the moment
		process.stop()
		sequence, _ := source.sequence()
		if state, _ := state(stream); state.LastSeq != sequence {
			t.Fatalf("the stream ends at %d, the state has %d", state.LastSeq, sequence)
		}
	}
	stop()
	finish(engine, source, stream)
	compare(t, stream, source.count)
	t.Logf("%d stops: %d messages", stops, source.count)
}

// Kills of the server at random moments under load lose and repeat nothing.
func TestKillEngine(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	stop := source.load()
	process := engine.forward(source)
	kills := bustest.LongOrShort(50, 5)
	for range kills {
		awaitProgress(t, stream, process)
		time.Sleep(rand.N(200 * time.Millisecond)) // the moment
		engine.process.Kill()
		engine.start()
	}
	stop()
	await(t, stream, source.count, process)
	process.stop("; retrying", ": back after ")
	compare(t, stream, source.count)
	t.Logf("%d kills of the server: %d messages", kills, source.count)
}

// awaitProgress waits until the stream grows.
func awaitProgress(t *testing.T, stream jetstream.Stream, process *process) {
	t.Helper()
	before, known := state(stream)
	for deadline := time.Now().Add(3 * bustest.Patience); ; time.Sleep(10 * time.Millisecond) {
		now, answered := state(stream)
		switch {
		case answered && !known:
			before, known = now, true
		case answered && now.LastSeq > before.LastSeq:
			return
		case time.Now().After(deadline):
			t.Fatalf("the stream stays at %d; the forwarder reported:\n%s",
				before.LastSeq, process.Stderr)
		}
	}
}

// Connections that are cut at random moments under load lose and repeat nothing.
func TestCut(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	proxy := newProxy(t, engine, func([]byte) {})
	stop := source.load()
	process := engine.forward(source, "-url", proxy.url)
	cuts := bustest.LongOrShort(50, 5)
	for range cuts {
		awaitProgress(t, stream, process)
		time.Sleep(rand.N(100 * time.Millisecond)) // the moment
		proxy.cut()
	}
	stop()
	await(t, stream, source.count, process)
	process.stop("; retrying", ": back after ")
	compare(t, stream, source.count)
	t.Logf("%d cut connections: %d messages", cuts, source.count)
}

// A server that halts in the middle of a batch and continues later may store the batch after
// the next session has read the stream's end.
func TestHalt(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	stop := source.load()
	process := engine.forward(source, "-timeout", "500ms")
	halts := bustest.LongOrShort(10, 2)
	for range halts {
		awaitProgress(t, stream, process)
		time.Sleep(rand.N(100 * time.Millisecond)) // the moment
		engine.process.Signal(syscall.SIGSTOP)
		time.Sleep(time.Second + rand.N(time.Second)) // longer than -timeout
		engine.process.Signal(syscall.SIGCONT)
	}
	stop()
	await(t, stream, source.count, process)
	process.stop("; retrying", ": back after ")
	compare(t, stream, source.count)
	t.Logf("%d halts of the server: %d messages", halts, source.count)
}

// While the engine is away the log grows. The forwarder reports the start and the end of the
// outage, each in one line.
func TestAway(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	process := engine.forward(source)
	stop := source.load()
	awaitFirst(t, source)
	engine.process.Kill()
	time.Sleep(time.Duration(bustest.LongOrShort(60, 4)) * time.Second) // the outage
	engine.start()
	stop()
	await(t, stream, source.count, process)
	process.stop("; retrying", ": back after ")
	compare(t, stream, source.count)
	reported := process.Stderr.String()
	lines := strings.Split(strings.TrimSuffix(reported, "\n"), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], engine.url) ||
		!strings.HasSuffix(lines[0], "; retrying") ||
		!strings.Contains(lines[1], ": back after ") {
		t.Errorf("it reported:\n%s", reported)
	}
}

// A forwarder that has nothing to send reports the end of its connection, too.
func TestAwayWhileIdle(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	engine.stream(jetstream.StreamConfig{})
	process := engine.forward(source)
	awaitState(t, source.path+"_state")
	engine.process.Kill()
	process.reports(engine.url + ": disconnected: ")
	process.stop("; retrying")
}

// The forwarder works with a standard error that is a closed pipe.
func TestClosedStandardError(t *testing.T) {
	t.Parallel()
	engine, source := newEngine(t), newSource(t)
	stream := engine.stream(jetstream.StreamConfig{})
	engine.process.Kill()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	defer writer.Close()
	command := exec.Command(forwarder, "-log", source.path, "-state", source.path+"_state",
		"-stream", "ORDERS", "-url", engine.url)
	command.Stderr = writer
	process := start(t, command)
	source.write(10)
	time.Sleep(500 * time.Millisecond) // the outage
	engine.start()
	await(t, stream, source.count, process)
	process.stop()
}

// Kills of the leader of a replicated stream under load lose and repeat nothing.
func TestCluster(t *testing.T) {
	if !bustest.Torture {
		t.Skip("three servers are for the long campaign")
	}
	engines := newCluster(t)
	source := newSource(t)
	stream := engines[0].stream(jetstream.StreamConfig{Replicas: len(engines)})
	urls := make([]string, len(engines))
	for i, engine := range engines {
		urls[i] = engine.url
	}
	stop := source.load()
	process := engines[0].forward(source, "-url", strings.Join(urls, ","))
	const kills = 20
	for range kills {
		awaitProgress(t, stream, process)
		time.Sleep(rand.N(200 * time.Millisecond)) // the moment
		leader := leaderOf(t, stream, engines)
		leader.process.Kill()
		leader.start()
		bustest.Until(t, "three replicas", func() bool {
			cluster := clusterOf(stream)
			return cluster.Leader != "" && len(cluster.Replicas) == len(engines)-1 &&
				cluster.Replicas[0].Current && cluster.Replicas[1].Current
		})
	}
	stop()
	await(t, stream, source.count, process)
	process.stop("; retrying", ": back after ")
	compare(t, stream, source.count)
	t.Logf("%d kills of the leader of three: %d messages", kills, source.count)
}

// newCluster starts a cluster of three servers.
func newCluster(t *testing.T) []*engine {
	t.Helper()
	var addresses, routes []string
	for range 3 {
		address := bustest.FreeAddress(t)
		addresses = append(addresses, address)
		routes = append(routes, fmt.Sprintf("%q", "nats://"+address))
	}
	var engines []*engine
	for i, address := range addresses {
		engine := prepareEngine(t, "", fmt.Sprintf(
			"server_name: s%d\ncluster { name: c, listen: %q, routes: [%s] }",
			i, address, strings.Join(routes, ", ")))
		engine.launch()
		engines = append(engines, engine)
	}
	bustest.Until(t, "a server that listens", func() bool {
		return strings.Contains(engines[0].process.Stderr.String(), "Server is ready")
	})
	jetStream := engines[0].jetStream()
	bustest.Until(t, "a leader of the cluster", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := jetStream.AccountInfo(ctx)
		return err == nil
	})
	return engines
}

// leaderOf returns the server that leads a stream.
func leaderOf(t *testing.T, stream jetstream.Stream, engines []*engine) (leader *engine) {
	t.Helper()
	bustest.Until(t, "a leader of the stream", func() bool {
		name := clusterOf(stream).Leader
		if name != "" {
			leader = engines[name[1]-'0']
		}
		return name != ""
	})
	return leader
}

// clusterOf returns the servers of a stream, or the zero value while no server answers.
func clusterOf(stream jetstream.Stream) jetstream.ClusterInfo {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	info, err := stream.Info(ctx)
	if err != nil {
		return jetstream.ClusterInfo{}
	}
	return *info.Cluster
}

// proxy connects clients with a server, until it cuts their connections.
type proxy struct {
	url string
	cut func()
}

// newProxy starts a proxy. It calls change with all bytes from the server, before they are
// sent to the client.
func newProxy(t *testing.T, engine *engine, change func(text []byte)) *proxy {
	t.Helper()
	listener := bustest.Listen(t)
	connections := make(chan net.Conn, 1000)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(engine.url, "nats://"))
			if err != nil {
				client.Close()
				continue
			}
			connections <- client
			connections <- server
			go pass(server, client, func([]byte) {})
			go pass(client, server, change)
		}
	}()
	cut := func() {
		for {
			select {
			case connection := <-connections:
				connection.(*net.TCPConn).SetLinger(0)
				connection.Close()
			default:
				return
			}
		}
	}
	t.Cleanup(cut)
	return &proxy{url: "nats://" + listener.Addr().String(), cut: cut}
}

// pass copies bytes between connections until one of them ends. It calls change with the
// bytes before it writes them.
func pass(to, from net.Conn, change func(text []byte)) {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		count, err := from.Read(buffer)
		change(buffer[:count])
		if _, writeErr := to.Write(buffer[:count]); err != nil || writeErr != nil {
			return
		}
	}
}
