package follow_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logfile"
)

// position returns a position with this number.
func position(number int) follow.Position {
	hash := [16]byte{byte(number), 0xff}
	return follow.Position{Log: id, Number: 7, Offset: int64(number), Hash: hash}
}

// openState opens a state and closes it at the end of the test.
func openState(t *testing.T, path string) *follow.State {
	t.Helper()
	state, err := follow.OpenState(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { state.Close() })
	return state
}

// saved returns the text of a state after so many saves.
func saved(t *testing.T, saves int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	state := openState(t, path)
	for number := 1; number <= saves; number++ {
		if err := state.Save(position(number), fmt.Sprint("note ", number)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// loaded writes text to a state at path, opens it, and returns the number of its position. It
// returns 0 if the state has no position, and -1 if OpenState refuses the file.
func loaded(t *testing.T, path string, text []byte) int {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	state, err := follow.OpenState(path, "test")
	if err != nil {
		after, _ := os.ReadFile(path)
		if !bytes.Equal(after, text) {
			t.Errorf("a file that is refused was changed: %q", after)
		}
		if err.Error() != path+": is not a state of a test; it was left as it is" {
			t.Error(err)
		}
		return -1
	}
	defer state.Close()
	found, note, any := state.Load()
	number := int(found.Offset)
	right := found == position(number) && note == fmt.Sprint("note ", number)
	if any != (number > 0) || any && !right {
		t.Errorf("%v, %q, %v", found, note, any)
	}
	return number
}

// A state has the position that was saved last, and is text.
func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	state := openState(t, path)
	if _, _, found := state.Load(); found {
		t.Error("a new state has a position")
	}
	state.Close()
	for saves := 1; saves < 6; saves++ {
		text := saved(t, saves)
		if got := loaded(t, path, text); got != saves {
			t.Errorf("after %d saves it has %d", saves, got)
		}
		lines := strings.SplitAfter(string(text), "\n")
		if len(lines) != 3 || len(lines[0]) != 384 || len(lines[1]) != 384 || lines[2] != "" {
			t.Errorf("%q", lines)
		}
	}
	hash := "01ff" + strings.Repeat("0", 28)
	want := fmt.Sprintf("%-374s", "mbus test save 2 offset 1 log 5b1b30b6c2830ccd file 7 hash "+
		hash+" note note 1")
	if got := string(saved(t, 1))[384:]; got[:374] != want || got[374] != ' ' || got[383] != '\n' {
		t.Errorf("%q, want %q", got, want)
	}
	state = openState(t, filepath.Join(t.TempDir(), "state"))
	if err := state.Save(position(1), strings.Repeat("x", 129)); err == nil {
		t.Error("a note of 129 bytes was saved")
	}
	largest := follow.Position{
		Log: 1<<64 - 1, Number: logfile.MaxNumber, Offset: 1<<63 - 1, Hash: [16]byte{0xff}}
	if err := state.Save(largest, strings.Repeat("x", 128)); err != nil {
		t.Error(err)
	}
	if got, note, _ := state.Load(); got != largest || len(note) != 128 {
		t.Errorf("%v, %q", got, note)
	}
}

// A crash can cut the file or the new line at each length. Then the state has the previous
// position.
func TestTornState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for saves := 1; saves <= 3; saves++ {
		text := saved(t, saves)
		first := map[int]int{1: 1, 2: 2, 3: 2}[saves] // the save in the first line
		for length := range len(text) {
			want := first
			if length < 384 {
				want = 0
			}
			if got := loaded(t, path, text[:length]); got != want {
				t.Errorf("%d bytes after %d saves: it has %d, want %d", length, saves, got, want)
			}
			zeros := append(bytes.Clone(text[:length]), make([]byte, len(text)-length)...)
			if got := loaded(t, path, zeros); got != want {
				t.Errorf("%d bytes and zeros after %d saves: it has %d, want %d",
					length, saves, got, want)
			}
		}
		next := saved(t, saves+1)
		for length := range len(next) + 1 {
			torn := append(bytes.Clone(next[:length]), text[length:]...)
			want := saves
			if bytes.Equal(torn, next) {
				want = saves + 1
			}
			if got := loaded(t, path, torn); got != want {
				t.Errorf("%d bytes of save %d: it has %d, want %d", length, saves+1, got, want)
			}
		}
	}
}

// A wrong byte invalidates only its line.
func TestFlippedState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, flip := range []byte{0x01, 0x20, 0x80, 0xff} {
		for saves := 1; saves <= 3; saves++ {
			text := saved(t, saves)
			for at := range text {
				flipped := bytes.Clone(text)
				flipped[at] ^= flip
				want := saves
				if newest := (saves + 1) % 2; saves > 1 && at/384 == 1-newest {
					want = saves - 1
				}
				if got := loaded(t, path, flipped); got != want {
					t.Errorf("byte %d ^ %#x after %d saves: it has %d, want %d",
						at, flip, saves, got, want)
				}
			}
		}
		for at, line := 0, saved(t, 1)[:384]; at < len(line); at++ {
			flipped := bytes.Clone(line)
			flipped[at] ^= flip
			want := 0
			if at < len("mbus test save ") {
				want = -1
			}
			if got := loaded(t, path, flipped); got != want {
				t.Errorf("byte %d ^ %#x of one line: it has %d, want %d", at, flip, got, want)
			}
		}
	}
}

// After any damage that OpenState accepts, the next saves are found again.
func TestSaveAfterCrash(t *testing.T) {
	whole := saved(t, 3)
	torn := bytes.Clone(whole)
	torn[100]++
	for name, text := range map[string][]byte{
		"nothing": nil, "zeros": make([]byte, 768), "a start": []byte("mbus te"),
		"a torn line": whole[:383], "one line": whole[:384], "one line and a half": whole[:576],
		"two lines": whole, "the other line": torn,
	} {
		path, copied := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		for next := 90; next < 95; next++ {
			state := openState(t, path)
			if err := state.Save(position(next), fmt.Sprint("note ", next)); err != nil {
				t.Fatal(err)
			}
			state.Close()
			text, err := os.ReadFile(path)
			if got := loaded(t, copied, text); got != next || len(text) != 768 {
				t.Errorf("%s: %d bytes, it has %d, want %d, %v", name, len(text), got, next, err)
			}
			// Without the last line, the line before is found. A first save has none.
			if next > 90 {
				text[bytes.Index(text, fmt.Appendf(nil, "note note %d", next))]++
				if got := loaded(t, copied, text); got != next-1 {
					t.Errorf("%s: without the last save it has %d, want %d", name, got, next-1)
				}
			}
		}
	}
}

// A file that is not a state is refused and not changed.
func TestNoState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	whole := string(saved(t, 3))
	for _, text := range []string{
		"x", "mbus tests save", "mbus consumer save 1", whole + "x", whole + whole,
		"\n" + whole[:767], strings.Repeat("\x00", 800) + "x",
		"2024/06/02 10:39:43 Broker: start listening\n",
	} {
		if got := loaded(t, path, []byte(text)); got != -1 {
			t.Errorf("%q was taken: %d", text, got)
		}
	}
	for path, want := range map[string]string{
		t.TempDir(): "is a directory", os.DevNull: "must be a regular file",
		filepath.Join(t.TempDir(), "none", "state"): "no such file or directory",
	} {
		_, err := follow.OpenState(path, "test")
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	path = filepath.Join(t.TempDir(), "state")
	openState(t, path)
	want := path + ": in use by another test"
	if _, err := follow.OpenState(path, "test"); err == nil || err.Error() != want {
		t.Error(err)
	}
}

// OpenState waits for a lock that is released soon: the child of a consumer that was killed
// while it started a command holds the lock for some milliseconds.
func TestStateIsReleased(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	holder := openState(t, path)
	time.AfterFunc(20*time.Millisecond, func() { holder.Close() })
	openState(t, path)
}

// Whatever text a state has, its offset and its note are in their limits.
func FuzzState(f *testing.F) {
	text := bytes.Repeat([]byte(" "), 768)
	copy(text, "mbus test save 1 offset 2 log 3 file 4 hash 00 note")
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		state, err := follow.OpenState(path, "test")
		if err != nil {
			return
		}
		defer state.Close()
		position, note, found := state.Load()
		if found && (position.Offset < 0 || len(note) > 128) {
			t.Errorf("%v, %q", position, note)
		}
	})
}
