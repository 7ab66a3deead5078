//go:build unix

package cmd_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/bustest"
)

// TestRatiosOfSockets compares a broker on a Unix socket with one on TCP. "make bench" runs it.
func TestRatiosOfSockets(t *testing.T) {
	bustest.Benchmark(t)
	path := socketPath(t)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	broker := command("broker", "-phost", path, "-interval", "200ms")
	broker.Stderr = null
	bustest.Start(t, broker)
	expect(t, 0, "", "producer", "-ping", "-host", path, "-retry", "20s")
	tcp := startWithNullLog(t, "-interval", "200ms").Address

	const short = 15 * time.Millisecond
	one := []byte(repeated(1, "topic", strings.Repeat("x", 128)))
	results, singles := inTurn(150,
		func() float64 { return rate(t, path, one, 1, short) },
		func() float64 { return rate(t, tcp, one, 1, short) })
	const row = "accept a message a connection over a Unix socket, of that over TCP"
	fmt.Printf("\n| %s | %s | >= 1 | %.0f/s |\n", row, results, singles.quantile(0.5))
	if results.quantile(0.5) < 1 {
		t.Errorf("%s: %s, want at least 1", row, results)
	}
}
