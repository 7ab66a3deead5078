package follow

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"mbus/internal/shared/osfile"
)

const (
	// A state file has two lines of slotSize bytes. The last checkSize bytes of each
	// are a CRC-32 (IEEE) of the other bytes, in hexadecimal, and the line feed.
	slotSize  = 384
	checkSize = len(" 01234567\n")

	// oldSize is slotSize in a file of an earlier version.
	oldSize = 256

	// maxNote is the largest number of bytes in a note, so that a line has room for it.
	maxNote = 128

	// placeFormat and oldFormat are the forms of a position in a line. A line of an earlier
	// version also has a time, which is not used.
	placeFormat = "offset %d log %016x file %d hash %x"
	oldFormat   = "offset %d time %d hash %x"
)

// State keeps a position in a file, so that it survives the process and a power loss. The
// file has two lines of text. Save overwrites the older one in place, and syncs it. If a crash
// tears that line, the other line still has the previous position. Only the first Save needs
// room on the disk.
//
// A file of an earlier version is read too. Its first Save copies the line that counts to the
// start of the file, and then writes the other line behind it.
//
// A State locks its file, so that no other State uses it. A State is not safe for concurrent
// use.
type State struct {
	file *os.File
	kind string
	last save
	slot int64  // the line that has last: 0 or 1
	old  []byte // that line, if it is the second one of an earlier version's file
}

// save is the content of a line.
type save struct {
	number   uint64 // counts saves from 1; 0: there is none
	position Position
	note     string
}

// OpenState opens the state file at path, and makes it if it is missing. The kind is a word
// for the program that uses it: OpenState refuses a state of another kind. A file without a
// whole line counts as new if it is empty, is all zeros, or begins as a state does. Any other
// file that is not a state is an error, and OpenState does not change the file. A new file can be
// read by the group.
func OpenState(path, kind string) (*State, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	return load(file, kind, true)
}

// ReadState returns the position and the note that the state file at path has, as Load does. It
// takes no lock, and changes nothing. While another process saves, it may return what was saved
// before. If the file is missing, found is false.
func ReadState(path, kind string) (position Position, note string, found bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Position{}, "", false, nil
	}
	if err != nil {
		return Position{}, "", false, err
	}
	defer file.Close()
	state, err := load(file, kind, false)
	if err != nil {
		return Position{}, "", false, err
	}
	position, note, found = state.Load()
	return position, note, found, nil
}

// load returns the State that file has, after it has locked file if locks is true. After an
// error it closes file.
func load(file *os.File, kind string, locks bool) (*State, error) {
	state := &State{file: file, kind: kind}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("must be a regular file")
	}
	if err == nil && locks {
		err = state.lock()
	}
	if err == nil {
		err = state.read()
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", file.Name(), err)
	}
	return state, nil
}

// read reads the file.
func (s *State) read() error {
	text, err := io.ReadAll(io.NewSectionReader(s.file, 0, 2*slotSize+1))
	if err != nil {
		return err
	}
	if len(text) <= 2*slotSize {
		for _, start := range []int{0, slotSize, oldSize} {
			s.parse(text[min(start, len(text)):], start)
		}
	}
	written, start := bytes.TrimRight(text, "\x00"), s.start()
	isNew := bytes.HasPrefix(written, start) || bytes.HasPrefix(start, written)
	if s.last.number == 0 && (!isNew || len(text) > 2*slotSize) {
		return fmt.Errorf("is not a state of a %s; it was left as it is", s.kind)
	}
	return nil
}

// lock locks the file. It tries for 200 ms, because a consumer that was killed while it
// started a command leaves a child process that holds the lock until it executes the command.
func (s *State) lock() error {
	const tries, pause = 20, 10 * time.Millisecond
	for range tries {
		if err := osfile.Lock(s.file); !errors.Is(err, osfile.ErrLocked) {
			return err
		}
		time.Sleep(pause)
	}
	return fmt.Errorf("in use by another %s", s.kind)
}

// start returns the text that each line begins with.
func (s *State) start() []byte {
	return fmt.Appendf(nil, "mbus %s save ", s.kind)
}

// format returns a line of the file.
func (s *State) format(saved save) []byte {
	line := fmt.Appendf(s.start(), "%d "+placeFormat+" note %s", saved.number,
		saved.position.Offset, saved.position.Log, saved.position.Number, saved.position.Hash,
		saved.note)
	return seal(append(line, bytes.Repeat([]byte(" "), slotSize-checkSize-len(line))...))
}

// seal returns line with its checksum and its line feed.
func seal(line []byte) []byte {
	return fmt.Appendf(line, " %08x\n", crc32.ChecksumIEEE(line))
}

// parse loads the first line of text, which is at offset start of the file, if the line is whole
// and newer than the one loaded before.
func (s *State) parse(text []byte, start int) {
	line := text[:bytes.IndexByte(text, '\n')+1]
	body := line[:max(0, len(line)-checkSize)]
	before, note, _ := strings.Cut(string(body), " note ")
	found := save{note: strings.TrimRight(note, " ")}
	place, hash := &found.position, []byte(nil)
	_, err := fmt.Sscanf(before, string(s.start())+"%d "+placeFormat,
		&found.number, &place.Offset, &place.Log, &place.Number, &hash)
	if len(line) == oldSize {
		place.Log, place.Number = 0, 1
		_, err = fmt.Sscanf(before, string(s.start())+"%d "+oldFormat,
			&found.number, &place.Offset, new(int64), &hash)
	}
	isWhole := err == nil && bytes.Equal(seal(bytes.Clone(body)), line) &&
		(len(line) == slotSize || len(line) == oldSize) && place.Offset >= 0 && place.Number >= 0
	if !isWhole || len(found.note) > maxNote || found.number <= s.last.number {
		return
	}
	copy(place.Hash[:], hash)
	s.last, s.slot, s.old = found, int64(start/slotSize), nil
	if start == oldSize {
		s.old = line
	}
}

// Load returns the position and the note of the last Save. If there was none, found is false.
func (s *State) Load() (position Position, note string, found bool) {
	return s.last.position, s.last.note, s.last.number > 0
}

// Save makes position and note durable, in place of those saved before. The note is the
// caller's own: up to 128 bytes of printable ASCII, with no space at its start or end.
func (s *State) Save(position Position, note string) error {
	if len(note) > maxNote {
		return fmt.Errorf("a note has %d bytes, must have at most %d", len(note), maxNote)
	}
	if s.old != nil { // otherwise the new line would overwrite it
		if err := s.write(s.old, 0); err != nil {
			return err
		}
		s.old = nil
	}
	next, slot := save{s.last.number + 1, position, note}, 1-s.slot
	lines := s.format(next)
	isNew := s.last.number == 0
	if isNew { // both lines, so that the file has all the room that it needs
		next.number, slot = 2, 0
		lines = append(lines, s.format(next)...)
	}
	if err := s.write(lines, slot*slotSize); err != nil {
		return err
	}
	if isNew {
		slot = 1
		if err := osfile.SyncDirectory(s.file.Name()); err != nil {
			return err
		}
	}
	s.last, s.slot = next, slot
	return nil
}

// write writes lines at offset, and syncs them.
func (s *State) write(lines []byte, offset int64) error {
	if _, err := s.file.WriteAt(lines, offset); err != nil {
		return err
	}
	return osfile.Sync(s.file)
}

// Close unlocks and closes the file.
func (s *State) Close() error {
	return s.file.Close()
}
