// Package bustest helps to test a broker. It has processes, a client, functions that parse the log
// and the documents, an endless input, and the floor with which benchmarks compare the broker.
//
// The package needs only the address and the log of a broker. So the tests of the broker, of the
// producer and of the commands can use it. It imports none of these.
package bustest

import (
	"bytes"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Patience is how long a test waits for anything before it fails.
const Patience = 20 * time.Second

// Until polls until condition holds. After Patience it fails the test with a message that
// names what.
func Until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", Patience, what)
		}
	}
}

// Record is an io.Writer that keeps everything in memory. The zero value is empty. It is
// safe for concurrent use, so a test can read the log while the broker writes it.
type Record struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

// Write implements io.Writer. It never fails.
func (r *Record) Write(text []byte) (int, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.text.Write(text)
}

// String returns everything that was written since the last Reset.
func (r *Record) String() string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.text.String()
}

// Reset empties the record.
func (r *Record) Reset() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.text.Reset()
}

// Listen listens on a free port of the loopback interface until the test ends. The
// kernel completes connections to the listener even if the test never accepts one.
func Listen(t testing.TB) *net.TCPListener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.(*net.TCPListener)
}

// Numbers returns the numbers from first to last in decimal.
func Numbers(first, last int) []string {
	numbers := make([]string, 0, max(last-first+1, 0))
	for number := first; number <= last; number++ {
		numbers = append(numbers, strconv.Itoa(number))
	}
	return numbers
}
