package follow

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"time"

	"mbus/internal/shared/osfile"
)

const (
	// A state file has two lines of slotSize bytes, of which the last checkSize
	// are a checksum of the others and the line feed.
	slotSize  = 256
	checkSize = len(" 01234567\n")

	// maxNote is how many bytes of a note have room in a line.
	maxNote = 96
)

// State keeps a position in a file, so that it survives the process and a loss of
// power. The file has two lines of text, which are written in place and in turn, and
// each is synced before the other is touched: if one was torn by a crash, the other has
// the position before. So saving takes no room on the disk after the first time.
//
// The file is locked, so that one State at a time uses it. A State must not be used
// from several goroutines at once.
type State struct {
	file     *os.File
	kind     string
	saves    uint64 // the number of the last save; 0: there is none
	slot     int64  // of that
	position Position
	note     string
}

// OpenState opens the state file at path, and makes it if it is missing. The kind is a
// word for what uses it: a state of another kind is not taken. A file that is empty or
// all zeros, or starts as a state does and has no whole line, counts as new; any
// other that is no state is an error, and stays as it is.
func OpenState(path, kind string) (*State, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	state := &State{file: file, kind: kind}
	if err := state.load(); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return state, nil
}

// load locks the file and reads it.
func (state *State) load() error {
	info, err := state.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("must be a regular file")
	}
	if err := state.lock(); err != nil {
		return err
	}
	text, err := io.ReadAll(io.NewSectionReader(state.file, 0, 2*slotSize+1))
	if err != nil {
		return err
	}
	for slot := range int64(2) {
		start := slot * slotSize
		if len(text) <= 2*slotSize && start+slotSize <= int64(len(text)) {
			state.parse(text[start:start+slotSize], slot)
		}
	}
	written, start := bytes.TrimRight(text, "\x00"), state.start()
	isNew := bytes.HasPrefix(written, start) || bytes.HasPrefix(start, written)
	if state.saves == 0 && (!isNew || len(text) > 2*slotSize) {
		return fmt.Errorf("is not a state of a %s; it was left as it is", state.kind)
	}
	return nil
}

// lock locks the file. It tries for 200 ms: when a process is killed in the middle of
// starting a command, the child holds the lock until it executes that.
func (state *State) lock() error {
	const tries, pause = 20, 10 * time.Millisecond
	for range tries {
		if err := osfile.Lock(state.file); !errors.Is(err, osfile.ErrLocked) {
			return err
		}
		time.Sleep(pause)
	}
	return fmt.Errorf("in use by another %s", state.kind)
}

// start returns the bytes that each line begins with.
func (state *State) start() []byte {
	return fmt.Appendf(nil, "mbus %s save ", state.kind)
}

// format returns a line of the file.
func (state *State) format(saves uint64, position Position, note string) []byte {
	line := fmt.Appendf(state.start(), "%d offset %d time %d hash %x note %s",
		saves, position.Offset, position.Time, position.Hash, note)
	line = append(line, bytes.Repeat([]byte(" "), slotSize-checkSize-len(line))...)
	return fmt.Appendf(line, " %08x\n", crc32.ChecksumIEEE(line))
}

// parse takes what a line of the file has, if that is whole and newer.
func (state *State) parse(line []byte, slot int64) {
	var saves uint64
	var position Position
	var hash []byte
	text := string(line[:slotSize-checkSize])
	before, note, _ := strings.Cut(text, " note ")
	note = strings.TrimRight(note, " ")
	_, err := fmt.Sscanf(before, string(state.start())+"%d offset %d time %d hash %x",
		&saves, &position.Offset, &position.Time, &hash)
	copy(position.Hash[:], hash)
	if err != nil || saves <= state.saves || position.Offset < 0 || len(note) > maxNote {
		return
	}
	if bytes.Equal(state.format(saves, position, note), line) { // so the checksum is right too
		state.saves, state.slot, state.position, state.note = saves, slot, position, note
	}
}

// Load returns what was saved last; found is false if nothing was.
func (state *State) Load() (position Position, note string, found bool) {
	return state.position, state.note, state.saves > 0
}

// Save makes position and note durable, in place of what was saved before. The note is
// up to 96 bytes of printable ASCII that neither starts nor ends with a space, for what
// the user of the State has to know besides.
func (state *State) Save(position Position, note string) error {
	if len(note) > maxNote {
		return fmt.Errorf("a note has %d bytes, must have at most %d", len(note), maxNote)
	}
	saves, slot := state.saves+1, 1-state.slot
	lines := state.format(saves, position, note)
	isNew := state.saves == 0
	if isNew { // both lines, so that the file has all the room that it needs
		saves, slot = 2, 0
		lines = append(lines, state.format(saves, position, note)...)
	}
	if _, err := state.file.WriteAt(lines, slot*slotSize); err != nil {
		return err
	}
	if err := osfile.Sync(state.file); err != nil {
		return err
	}
	if isNew {
		if err := osfile.SyncDirectory(state.file.Name()); err != nil {
			return err
		}
	}
	state.saves, state.position, state.note = saves, position, note
	state.slot = slot + int64(len(lines)/slotSize) - 1
	return nil
}

// Close unlocks and closes the file.
func (state *State) Close() error {
	return state.file.Close()
}
