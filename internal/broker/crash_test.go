//go:build unix

package broker

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mbus/internal/shared/logfile"
)

// inode is the content of a file.
type inode struct {
	cached []byte // in the kernel
	synced []byte // certainly on disk
	common int    // how many bytes at the beginning are the same in both
	torn   bool   // an earlier power loss may have torn its end
}

// variants returns the contents that a power loss may leave of the file: synced, cached, and
// mixtures of both. Some are prefixes of cached, as long as the common bytes or longer: all
// that end less than edge bytes from the first or last of these, and between them one every
// stride bytes. In the others, one block of cached, or all from one block on, has zeros or
// the bytes of synced.
func (i *inode) variants(stride, edge int) [][]byte {
	cached, synced, common := i.cached, i.synced, i.common
	found := [][]byte{synced, cached}
	for size := common; size < len(cached); size++ {
		if size%stride == 0 || min(size-common, len(cached)-size) < edge {
			found = append(found, cached[:size])
		}
	}
	for _, block := range []int{512, 4096} {
		for start := common / block * block; start < len(cached); start += block {
			from, to := max(start, common), min(start+block, len(cached))
			zeroed, old, tail := bytes.Clone(cached), bytes.Clone(cached), bytes.Clone(cached)
			clear(zeroed[from:to])
			clear(tail[from:])
			if clear(old[from:to]); from < len(synced) {
				copy(old[from:to], synced[from:])
				found = append(found, append(cached[:from:from], synced[from:]...))
			}
			found = append(found, zeroed, old, tail)
		}
	}
	return found
}

// remnant is a file after a power loss.
type remnant struct {
	data   []byte
	synced bool // all of the file was on disk
}

// life is a broker with its log in a directory, until a power loss.
type life struct {
	crashes *crashes
	*Broker
	store    *store
	path     string              // of the log
	names    []map[string]*inode // the directory on disk, and after each change since then
	file     *inode              // the file that the broker writes
	first    int                 // the first message that this life sends
	sent     int                 // how many messages it has sent
	before   []int               // the messages that earlier lives acknowledged
	again    bool                // second lives begin with the files of this one
	room     int                 // how many bytes fit on the disk
	rotateAt string              // rotate after the next change of this name
}

// crashes has the states that power losses may leave, and what was found in them.
type crashes struct {
	*testing.T
	directory string
	seed      maphash.Seed
	states    map[uint64]bool
	lives     int // how many second lives there were
	sparse    int // try one of so many states, where many are alike

	last  logfile.Header // of the file that was checked last
	whole int64          // how many bytes of whole lines it has
}

// crashMessages are the sizes of the messages of the first life, followed by those of each
// second life, in bytes.
var crashMessages = []int{10, 60, 2500, 20, 2500, 30, 70_000, 40, 50, 2600, 20}

// lastMessages is how many messages a second life sends.
const lastMessages = 2

// crashMessage returns the text of message i. A line that is cut after one of its apostrophes
// looks whole but for the line feed. No two messages have a block in common.
func crashMessage(i int) string {
	return strings.Repeat(fmt.Sprintf("%d's ", i), crashMessages[i]/4)
}

// begin returns a life in a new directory of files. before is the messages that earlier lives
// acknowledged.
func (c *crashes) begin(files map[string]remnant, before []int) *life {
	life := &life{crashes: c, before: before, room: endless}
	names := make(map[string]*inode)
	life.path = filepath.Join(c.make(files), "log")
	for name, file := range files {
		names[name] = &inode{file.data, file.data, len(file.data), !file.synced}
	}
	life.names = []map[string]*inode{names}
	return life
}

// open makes a broker that opens the log as New does, but whose store is observed.
func (l *life) open() {
	config := DefaultConfig()
	config.ProducerPort, config.MaxPayload = "0", 1
	broker, err := New(config)
	l.must(err)
	l.Broker = broker
	config.LogFile, config.Sync = l.path, true
	l.drainer.stderr = io.Discard
	l.store = &store{path: l.path, synced: true, observe: l.changed, notify: broker.notify}
	l.drainer.log = newLog(nil, l.store)
	l.drainer.log.writer = l
	l.must(l.store.open())
}

// Write implements io.Writer. It writes to the store, as far as the disk has room.
func (l *life) Write(text []byte) (int, error) {
	taken := min(len(text), l.room)
	l.room -= taken
	count, err := l.store.Write(text[:taken])
	if err == nil && count < len(text) {
		err = syscall.ENOSPC
	}
	return count, err
}

// changed changes the inodes as the store has changed the files, and then tries all power losses.
func (l *life) changed(change string, data []byte, size int64) {
	current := l.names[len(l.names)-1]
	switch change {
	case "open":
		if current["log"] == nil {
			current = maps.Clone(current)
			current["log"] = &inode{}
			l.names = append(l.names, current)
		}
		l.file = current["log"]
	case "truncate":
		l.file.cached = l.file.cached[:size:size]
		l.file.common = min(l.file.common, int(size))
	case "write":
		l.file.cached = append(l.file.cached, data...)
	case "sync":
		l.file.synced, l.file.common = l.file.cached, len(l.file.cached)
	case "sync directory":
		l.names = l.names[len(l.names)-1:]
	}
	l.lose()
	if change == l.rotateAt {
		l.rotateAt = ""
		l.rotate()
	}
}

// rotate renames the log.
func (l *life) rotate() {
	current := maps.Clone(l.names[len(l.names)-1])
	old := fmt.Sprint("log.", len(current))
	if err := os.Rename(l.path, filepath.Join(filepath.Dir(l.path), old)); err != nil {
		l.crashes.Fatal(err)
	}
	current[old] = current["log"]
	delete(current, "log")
	l.names = append(l.names, current)
	l.lose()
}

// send queues the next count messages as one payload, and drains.
func (l *life) send(count int) error {
	var texts []string
	for range count {
		texts = append(texts, crashMessage(l.first+l.sent))
		l.sent++
	}
	queueTexts(l.crashes, l.Broker, "t", texts...)
	err := l.Drain()
	l.lose()
	return err
}

// must fails the test unless err is nil.
func (l *life) must(err error) {
	if err != nil {
		l.crashes.Fatal(err)
	}
}

// end closes the broker, and checks that the files have the content of the inodes.
func (l *life) end() {
	l.Close()
	l.store.close()
	for name, inode := range l.names[len(l.names)-1] {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(l.path), name))
		if err != nil || !bytes.Equal(data, inode.cached) {
			l.crashes.Fatalf("%s is not as the store reported: %v", name, err)
		}
	}
}

// lose tries all contents that a power loss may leave of the files.
func (l *life) lose() {
	acknowledged := slices.Clone(l.before)
	for i := range l.sent - unwritten(l.Broker) {
		acknowledged = append(acknowledged, l.first+i)
	}
	stride, edge := l.crashes.sparse, 300
	if !l.again {
		stride, edge = 499, 0
	}
	for _, names := range l.names {
		for _, inode := range names {
			for _, data := range inode.variants(stride, edge) {
				files := make(map[string]remnant)
				for name, other := range names {
					synced := !other.torn && bytes.Equal(other.cached, other.synced)
					files[name] = remnant{other.cached, synced}
					if other == inode {
						files[name] = remnant{data, synced}
					}
				}
				l.crashes.recover(files, acknowledged, l.again)
			}
		}
		if len(names) == 0 {
			l.crashes.recover(nil, acknowledged, l.again)
		}
	}
}

// recover opens files with a store, as a broker does after a power loss, and checks the result.
// If again is true, some of the states are the beginning of a second life, which loses power
// too.
func (c *crashes) recover(files map[string]remnant, acknowledged []int, again bool) {
	var hash maphash.Hash
	hash.SetSeed(c.seed)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&hash, "%s %d %s", name, len(files[name].data), files[name].data)
	}
	fmt.Fprint(&hash, acknowledged)
	if c.states[hash.Sum64()] {
		return
	}
	c.states[hash.Sum64()] = true

	directory := c.make(files)
	isCut := false
	store := &store{path: filepath.Join(directory, "log"), synced: true}
	store.notify = func(string) { isCut = true }
	if err := store.open(); err != nil {
		c.Fatal(err)
	}
	store.close()
	c.check(directory, files, acknowledged)
	os.RemoveAll(directory)
	if again && isCut && len(c.states)%c.sparse == 0 {
		c.lives++
		life := c.begin(files, acknowledged)
		life.first = len(crashMessages) - lastMessages
		life.open()
		life.must(life.send(1))
		life.must(life.send(1))
		life.end()
		os.RemoveAll(filepath.Dir(life.path))
	}
}

// make makes a directory with files, and returns its path.
func (c *crashes) make(files map[string]remnant) string {
	directory, err := os.MkdirTemp(c.directory, "")
	if err != nil {
		c.Fatal(err)
	}
	for name, file := range files {
		if err := os.WriteFile(filepath.Join(directory, name), file.data, 0o600); err != nil {
			c.Fatal(err)
		}
	}
	return directory
}

// check fails the test unless all files of directory together have only messages that were sent,
// in order, each once, and have all messages that were acknowledged.
func (c *crashes) check(directory string, files map[string]remnant, acknowledged []int) {
	c.last = logfile.Header{}
	var found []int
	for _, name := range []string{"log.1", "log.2", "log.3", "log"} {
		data, err := os.ReadFile(filepath.Join(directory, name))
		if _, named := files[name]; named && err != nil {
			c.Fatal(err)
		}
		c.checkHeader(name, data)
		mayBeTorn := name != "log" && !files[name].synced
		found = append(found, c.messages(name, string(data), mayBeTorn)...)
	}
	if !slices.IsSorted(found) || len(slices.Compact(slices.Clone(found))) < len(found) {
		c.Fatalf("the order of the messages is %d", found)
	}
	for _, i := range acknowledged {
		if !slices.Contains(found, i) {
			c.Fatalf("messages %d were acknowledged, and the log has %d", acknowledged, found)
		}
	}
}

// checkHeader fails the test unless the file name, which has data, is the next of the log, and is
// after as many bytes as the file before has. Files that are missing, or that lost their first
// line, are left out.
func (c *crashes) checkHeader(name string, data []byte) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	header, found := logfile.Parse(append(line, '\n'))
	if !found {
		if name == "log" {
			c.Fatalf("log begins with %.100q", line)
		}
		return
	}
	if last := c.last; last.Number > 0 && (header.Log != last.Log ||
		header.Number != last.Number+1 || header.After != c.whole) {
		c.Fatalf("%s is %+v, and the file before with %d bytes %+v",
			name, header, c.whole, last)
	}
	c.last, c.whole = header, int64(bytes.LastIndexByte(data, '\n')+1)
}

// messages returns the messages in the text of a file. It fails the test if there is anything
// but whole lines that were written. It ignores a line with a zero byte, as readers do. If
// mayBeTorn is true, it ignores a last line without an end.
func (c *crashes) messages(name, text string, mayBeTorn bool) (found []int) {
	for line := range strings.Lines(text) {
		switch i, ok := crashMessageOf(line); {
		case ok:
			found = append(found, i)
		case !strings.HasSuffix(line, "\n"):
			if !mayBeTorn {
				c.Fatalf("%s has a torn end: %.100q", name, line)
			}
		case strings.Contains(line, "\x00"):
		case !timeStamp.MatchString(line), strings.Contains(line, "Received"):
			c.Fatalf("%s has a line of %d bytes that was never written: %.80q ... %q",
				name, len(line), line, line[max(0, len(line)-80):])
		}
	}
	return found
}

// timeStamp matches the beginning of a line.
var timeStamp = regexp.MustCompile(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)

// crashMessageOf returns the number of the message that line has. ok is false if it has none.
func crashMessageOf(line string) (i int, ok bool) {
	const before = "Received new message from topic 't': '"
	rest, _ := strings.CutPrefix(timeStamp.ReplaceAllString(line, ""), before)
	fmt.Sscanf(rest, "%d's", &i)
	return i, i >= 0 && i < len(crashMessages) && rest == crashMessage(i)+"'\n"
}

// After a power loss at any time, the log has all messages that were acknowledged, in order,
// each once, and nothing that was not sent.
func TestEveryCrash(t *testing.T) {
	crashes := &crashes{T: t, directory: inMemory(t), sparse: 211}
	if os.Getenv("MBUS_TORTURE") != "" {
		crashes.sparse = 29
	}
	crashes.seed, crashes.states = maphash.MakeSeed(), make(map[uint64]bool)
	life := crashes.begin(nil, nil)
	life.again = true
	life.open()
	life.must(life.send(2))
	life.must(life.send(1))
	life.rotate() // with all lines written
	life.must(life.send(1))
	life.room = 1500 // the disk is full in the middle of a line
	if err := life.send(1); err == nil {
		t.Fatal("the log did not fail")
	}
	life.rotate()
	life.room = endless
	life.must(life.send(1))
	life.rotateAt = "write" // in the middle of a drain
	life.must(life.send(2))
	life.must(life.send(1))
	life.end()
	t.Logf("figure: %d crash states, %d second lives",
		len(crashes.states), crashes.lives)
}
