//go:build unix

package cmd_test

import (
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
	"mbus/internal/shared/osfile"
)

// The names of the syncing floors. They serve as bustest.ServeFloor does, but have each payload
// on disk before they reply.
const (
	appending = "appending" // appends the payload to a file
	logging   = "logging"   // formats lines with the log package, and appends them to a file
)

// pathVariable is the environment variable with the path of the file that a floor appends to.
const pathVariable = "MBUS_FLOOR_FILE"

// encodedMessage is the size of a message with 128 bytes of data in a payload.
const encodedMessage = len("\x82\xa5Topic\xa5topic\xa4Data\xc4\x80") + 128

// runSyncingFloor runs the syncing floor of this name. It returns only with an error.
func runSyncingFloor(which string) error {
	file, err := os.OpenFile(os.Getenv(pathVariable), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	listener, err := bustest.ListenFloor()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Broker: listening on %s\n", listener.Addr())
	write := file.Write
	if which == logging {
		var lines lineBuffer
		logger := log.New(&lines, "", log.LstdFlags)
		write = func(payload []byte) (int, error) {
			lines = lines[:0]
			logPayload(logger, payload)
			return file.Write(lines)
		}
	}
	buffer := make([]byte, 1<<20)
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		length := 0
		for err == nil {
			var count int
			count, err = connection.Read(buffer[length:])
			length += count
		}
		if _, err := write(buffer[:length]); err != nil {
			return err
		}
		if err := osfile.Sync(file); err != nil {
			return err
		}
		io.WriteString(connection, "\x82\xa8Accepted\x01\xa5Error\xa0")
		connection.Close()
	}
}

// logPayload writes one line for each message of a payload. It finds the data without decoding,
// because all messages have the same size.
func logPayload(logger *log.Logger, payload []byte) {
	for end := len(payload); end >= encodedMessage; end -= encodedMessage {
		data := payload[end-128 : end]
		logger.Printf("Received new message from topic '%s': '%s'", "topic", data)
	}
}

// lineBuffer is an io.Writer that appends to itself.
type lineBuffer []byte

func (buffer *lineBuffer) Write(text []byte) (int, error) {
	*buffer = append(*buffer, text...)
	return len(text), nil
}

// startSyncingFloor starts a syncing floor, with its file in directory. It returns the floor's
// address.
func startSyncingFloor(t *testing.T, which, directory string) string {
	t.Helper()
	command := floorCommand(t, which)
	command.Env = append(command.Env, pathVariable+"="+filepath.Join(directory, which))
	return startCommand(t, command).Address
}

// onDisk measures how fast a broker with -sync accepts messages.
func (table *ratios) onDisk() {
	directory := table.t.TempDir() // not logDirectory, which may be in memory
	path := filepath.Join(directory, "log")
	broker := startStore(table.t, path, "-interval", "0", "-sync")
	const about = 200 * time.Millisecond
	for _, floor := range []struct{ name, work, target string }{
		{appending, "appending and syncing payloads", ">= 0.5"},
		{logging, "formatting with the log package and syncing", ">= 0.8"},
	} {
		address := startSyncingFloor(table.t, floor.name, directory)
		results, rates := inTurn(15,
			table.rate(broker.Address, table.thousand, 1000, about),
			table.rate(address, table.thousand, 1000, about))
		table.add("1,000 x 128 B a payload on disk before the reply, of "+floor.work, floor.target,
			results, rates.millions())
		results, rates = inTurn(15,
			table.rate(broker.Address, table.one, 1, about),
			table.rate(address, table.one, 1, about))
		table.add("a message a connection on disk before the reply, of "+floor.work, ">= 0.75",
			results, fmt.Sprintf("%.0f/s", rates.quantile(0.5)))
	}
}

// ownLog compares a broker with -log with one whose standard error is redirected to a file. It
// measures how fast they accept messages and write them, at -interval 0.
func (table *ratios) ownLog() {
	withLog := func() float64 {
		path := filepath.Join(logDirectory(table.t), "log")
		defer os.Remove(path)
		return sustainOn(table.t, table.thousand, func() *daemon {
			return startStore(table.t, path, "-interval", "0")
		})
	}
	redirected := func() float64 { return sustain(table.t, "0", table.thousand) }
	results, rates := inTurn(6, withLog, redirected) // each takes a second or two
	table.add("sustained at -interval 0 with -log, of that to a redirected file", ">= 0.9",
		results, rates.millions())
}
