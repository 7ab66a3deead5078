//go:build unix

package cmd_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/osfile"
)

// The names of the floors for many producers. They read one connection at a time, as
// bustest.ServeFloor does, and let another goroutine append the payloads to a file and answer: all
// that wait, together.
const (
	together       = "together"       // appends
	togetherOnDisk = "togetherOnDisk" // appends and syncs
)

// manyProducers is how many producers send at once.
const manyProducers = 64

// waitingPayload is a payload that was read, and the connection that waits for its reply.
type waitingPayload struct {
	connection net.Conn
	payload    []byte
}

// runTogetherFloor runs the floor for many producers of this name. It returns only with an error.
func runTogetherFloor(which string) error {
	file, listener, err := openFloor()
	if err != nil {
		return err
	}
	read := make(chan waitingPayload, 256)
	go func() {
		for first := range read {
			if err := appendTogether(file, first, read, which == togetherOnDisk); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}()
	buffer := make([]byte, 1<<20)
	for {
		connection, payload, err := acceptPayload(listener, buffer)
		if err != nil {
			return err
		}
		read <- waitingPayload{connection, append([]byte(nil), payload...)}
	}
}

// appendTogether appends first and all payloads that wait in read to file, and answers them.
func appendTogether(
	file *os.File, first waitingPayload, read <-chan waitingPayload, onDisk bool,
) error {
	batch := append([]waitingPayload(nil), first)
	text := append([]byte(nil), first.payload...)
	for len(read) > 0 {
		next := <-read
		batch = append(batch, next)
		text = append(text, next.payload...)
	}
	if _, err := file.Write(text); err != nil {
		return err
	}
	if onDisk {
		if err := osfile.Sync(file); err != nil {
			return err
		}
	}
	for _, each := range batch {
		io.WriteString(each.connection, "\x82\xa8Accepted\x01\xa5Error\xa0")
		each.connection.Close()
	}
	return nil
}

// producers measures how fast many producers at once are answered, each message on a connection of
// its own, once it is in the log, and once it is on disk.
func (r *ratios) producers() {
	const about = 300 * time.Millisecond
	for _, test := range []struct {
		floor, work, directory string
		flags                  []string
	}{
		{together, "written", logDirectory(r.t), nil},
		{togetherOnDisk, "on disk", r.t.TempDir(), []string{"-sync"}},
	} {
		broker := startStore(r.t, filepath.Join(test.directory, "log"),
			append(test.flags, "-interval", "0")...)
		floor := startSyncingFloor(r.t, test.floor, test.directory)
		results, rates := inTurn(15,
			func() float64 { return rateOfMany(r.t, broker.Address, r.one, about) },
			func() float64 { return rateOfMany(r.t, floor, r.one, about) })
		r.add(fmt.Sprintf("%d producers at once, a message a connection, %s before the reply, "+
			"of a floor that does so", manyProducers, test.work), ">= 0.85",
			results, fmt.Sprintf("%.0f/s", rates.quantile(0.5)))
		broker.Kill()
	}
}

// rateOfMany has many producers deliver payloads of one message for about this duration. It returns
// the rate of all, in messages a second.
func rateOfMany(t *testing.T, address string, payload []byte, about time.Duration) float64 {
	t.Helper()
	var group sync.WaitGroup
	var sent atomic.Int64
	begin := time.Now()
	for range manyProducers {
		group.Go(func() {
			for time.Since(begin) < about {
				bustest.Deliver(t, address, payload)
				sent.Add(1)
			}
		})
	}
	group.Wait()
	return float64(sent.Load()) / time.Since(begin).Seconds()
}

// sizes measures how fast messages of different sizes are accepted, beside the reading floor and
// beside Redis if it is on the PATH.
func (r *ratios) sizes() {
	const about = 150 * time.Millisecond
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		r.t.Log("NOT MEASURED: redis-server is not on the PATH")
	}
	for _, test := range []struct {
		size, count int
		target      string
	}{
		{16, 1000, ">= 0.55"}, {1 << 10, 1000, ">= 0.6"}, {16 << 10, 1000, ">= 0.6"},
		{128 << 10, 100, ">= 0.6"}, {256 << 10, 60, ">= 0.6"},
	} {
		data := strings.Repeat("x", test.size)
		payload := []byte(repeated(test.count, "topic", data))
		accept := r.rate(r.null, payload, test.count, about)
		results, rates := inTurn(15, accept, r.rate(r.floor, payload, test.count, about))
		work := fmt.Sprintf("accept %d x %d B a payload, of ", test.count, test.size)
		r.add(work+"the reading floor", test.target, results,
			fmt.Sprintf("%.0f/s", rates.quantile(0.5)))
		if err != nil || test.size < 1<<10 {
			continue
		}
		peer := bulkRedis(data, test.count)
		connection := peer.run(r.t, redis)
		results, _ = inTurn(10, accept, func() float64 { return peer.rate(r.t, connection, about) })
		r.add(work+"Redis' one RPUSH", ">= 1", results, "")
		connection.Close()
	}
}
