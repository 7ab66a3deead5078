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
	// A state file has two lines of slotSize bytes. The last checkSize bytes of each
	// are a CRC-32 (IEEE) of the other bytes, in hexadecimal, and the line feed.
	slotSize  = 256
	checkSize = len(" 01234567\n")

	// maxNote is the largest number of bytes in a note, so that a line has room for it.
	maxNote = 96
)

// State keeps a position in a file, so that it survives the process and a power loss. The
// file has two lines of text. Save overwrites the older one in place, and syncs it. If a crash
// tears that line, the other line still has the previous position. Only the first Save needs
// room on the disk.
//
// A State locks its file, so that no other State uses it. A State is not safe for concurrent
// use.
type State struct {
	file     *os.File
	kind     string
	saves    uint64 // the number of the last save; 0: there is none
	slot     int64  // the line that has it: 0 or 1
	position Position
	note     string
}

// OpenState opens the state file at path, and makes it if it is missing. The kind is a word
// for the program that uses it: OpenState refuses a state of another kind. A file without a
// whole line counts as new if it is empty, is all zeros, or begins as a state does. Any other
// file that is not a state is an error, and OpenState does not change the file.
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

// lock locks the file. It tries for 200 ms, because a consumer that was killed while it
// started a command leaves a child process that holds the lock until it executes the command.
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

// start returns the text that each line begins with.
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

// parse loads a line of the file if it is whole and newer than the one loaded before.
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
	if bytes.Equal(state.format(saves, position, note), line) { // the checksum too
		state.saves, state.slot, state.position, state.note = saves, slot, position, note
	}
}

// Load returns the position and the note of the last Save. If there was none, found is false.
func (state *State) Load() (position Position, note string, found bool) {
	return state.position, state.note, state.saves > 0
}

// Save makes position and note durable, in place of those saved before. The note is the
// caller's own: up to 96 bytes of printable ASCII, with no space at its start or end.
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
