package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mbus/internal/shared/bustest"
)

// counts returns the values of the broker's counts, in their order.
func counts(t *testing.T, broker *Broker) (values []int) {
	t.Helper()
	for _, found := range regexp.MustCompile(`(?m)^mbus_\w+ (\d+)$`).
		FindAllStringSubmatch(string(broker.counted()), -1) {
		value, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
	}
	return values
}

// expectCounts fails the test unless the broker has counts that begin with these values.
func expectCounts(t *testing.T, broker *Broker, want ...int) {
	t.Helper()
	if got := counts(t, broker)[:len(want)]; !slices.Equal(got, want) {
		t.Errorf("the counts are %d, want %d", got, want)
	}
}

// The counts are those of the payloads and messages that were sent. An empty payload is not
// counted. A payload is counted even if its producer does not read the reply.
func TestCounts(t *testing.T) {
	broker := listen(t, nil)
	broker.serve()
	defer broker.Close()
	limit := broker.config.MaxQueued
	expectCounts(t, broker.Broker, 0, 0, 0, 0, 0, 0, limit, 0, 0, int(broker.begin.Unix()))
	broker.Accept("", 0)
	broker.Accept("\x90", 0)
	broker.Accept(bustest.Payload("t", "1", "2", "3"), 3)
	broker.Accept(bustest.Payload("u", "4"), 1)
	broker.Refuse("\xc0", "message 1: is nil, must be a map of Topic and Data")
	hangsUp := broker.Dial()
	hangsUp.Put(bustest.Payload("t", "5"))
	hangsUp.Close()
	broker.Accept("", 0) // the broker has served hangsUp
	bytes := 5*(messageOverhead+2) + 2*(topicOverhead+1)
	expectCounts(t, broker.Broker, 3, 1, 5, 0, 5, bytes, limit, 2, 0)
	broker.Close()
	expectCounts(t, broker.Broker, 3, 1, 5, 5, 0, 2*(topicOverhead+1), limit, 2, 0)
}

// While the log fails, the counts say so.
func TestCountsOfAFailingLog(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	broker := listen(t, func(config *BrokerConfig) {
		config.Log, config.LogFile = &bustest.Record{}, filepath.Join(directory, "log")
	})
	defer broker.Close()
	failing := func() int { return counts(t, broker.Broker)[8] }
	for _, want := range []int{1, 0} {
		if want == 1 {
			os.Rename(directory, directory+".away")
		} else {
			os.Rename(directory+".away", directory)
		}
		queueTexts(t, broker.Broker, "t", "1")
		if err := broker.Drain(); (err != nil) != (want == 1) || failing() != want {
			t.Errorf("the drain returns %v, log_failing is %d, want %d", err, failing(), want)
		}
	}
}

// The broker writes the counts when it starts and when it has stopped. It serves while they can't
// be written, and the log has one line about that.
func TestMetrics(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "a\nb")
	path := filepath.Join(directory, "counts.prom")
	for _, exists := range []bool{false, true} {
		if exists {
			if err := os.Mkdir(directory, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		broker := listen(t, func(config *BrokerConfig) { config.Metrics = path })
		broker.serve()
		if exists {
			bustest.Until(t, "the counts", func() bool {
				text, _ := os.ReadFile(path)
				return strings.Contains(string(text), "\nmbus_messages_written_total 0\n")
			})
		} else {
			bustest.Until(t, "a line about the counts", func() bool {
				return strings.Contains(broker.Log.String(), "Broker: -metrics open ")
			})
		}
		broker.Accept(bustest.Payload("t", "1", "2", "3"), 3)
		broker.Close()
		if err := <-broker.ended; err != nil {
			t.Error(err)
		}
		text, _ := os.ReadFile(path)
		written := strings.Contains(string(text), "\nmbus_messages_written_total 3\n")
		lines := strings.Count(broker.Log.String(), "-metrics")
		if written != exists || lines > 1 || (lines == 0) != exists {
			t.Errorf("directory: %t, counts written: %t, lines about them: %d\n%s",
				exists, written, lines, text)
		}
	}
	if entries, err := os.ReadDir(directory); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v, want the counts alone", entries, err)
	}
}

// A file of somebody else is never replaced: a broker with such -metrics does not start.
func TestMetricsRefused(t *testing.T) {
	directory := t.TempDir()
	path := func(name string) string { return filepath.Join(directory, name) }
	for name, text := range map[string]string{
		"empty": "", "counts": "# HELP mbus_topics", "other": "# HELP node_", "short": "# HELP",
	} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(path("counts"), path("link")); err != nil {
		t.Skip(err)
	}
	const foreign = "is not a file of counts, it was left as it is"
	for name, want := range map[string]string{
		"other": foreign, "short": foreign, "log": "is the log, must be another file",
		"": "must be a regular file", "link": "must be a regular file",
		"empty": "", "counts": "", "missing": "",
	} {
		config := DefaultConfig()
		config.ProducerPort, config.Log = "0", &bustest.Record{}
		config.LogFile, config.Metrics = path("log"), path(name)
		broker, err := New(config)
		if err == nil {
			broker.Close()
		}
		if want != "" {
			want = fmt.Sprintf("-metrics %s: %s", path(name), want)
		}
		if (err != nil || want != "") && (err == nil || err.Error() != want) {
			t.Errorf("%q: the error is %v, want %q", name, err, want)
		}
	}
}

// The file that is standard error, and so the log, is never replaced.
func TestMetricsAreNotTheLog(t *testing.T) {
	stderr, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	config := DefaultConfig()
	config.ProducerPort, config.Log, config.Metrics = "0", stderr, stderr.Name()
	_, err = New(config)
	if err == nil || !strings.HasSuffix(err.Error(), "is the log, must be another file") {
		t.Errorf("the error is %v", err)
	}
}

// The counts are written every 10 seconds. The log has one line when that begins to fail, and one
// when it succeeds again.
func TestMetricsInterval(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "missing")
	path := filepath.Join(directory, "counts.prom")
	synctest.Test(t, func(t *testing.T) {
		broker := &Broker{config: &BrokerConfig{Metrics: path}, queues: newQueues(1)}
		ending, ended := make(chan struct{}), make(chan struct{})
		go broker.keepMetrics(ending, ended)
		for i := range 6 {
			synctest.Wait()
			text, _ := os.ReadFile(path)
			want, lines := fmt.Sprintf("\nmbus_payloads_refused_total %d\n", i), 2
			if i < 3 {
				want, lines = "", 1
			}
			if got := strings.Count(string(broker.notices), "\n"); got != lines {
				t.Errorf("after %d s there are %d lines, want %d:\n%s",
					10*i, got, lines, broker.notices)
			}
			if !strings.Contains(string(text), want) {
				t.Errorf("after %d s there is no%sin\n%s", 10*i, want, text)
			}
			broker.mutex.Lock()
			broker.payloadsRefused++
			broker.mutex.Unlock()
			if i == 2 {
				if err := os.Mkdir(directory, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Second)
		}
		close(ending)
		<-ended
	})
}
