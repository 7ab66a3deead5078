package consumer

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// A note's text has all of the note, and fits into a state.
func TestNote(t *testing.T) {
	largest := note{
		sum: math.MaxUint32, done: make([]bool, maxStarted),
		output: mark{math.MaxUint64, math.MaxInt64, math.MaxUint32},
	}
	largest.done[maxStarted-1] = true
	marked := note{output: mark{1, 0, 0}}
	notes := []note{{}, largest, marked, {sum: 7, done: []bool{true}}}
	for range 200 {
		random := note{sum: rand.Uint32(), done: make([]bool, 1+rand.IntN(maxStarted))}
		for i := range random.done {
			random.done[i] = rand.IntN(3) == 0
		}
		random.done[len(random.done)-1] = true
		notes = append(notes, random)
	}
	for _, want := range notes {
		text := want.String()
		if got := parseNote(text); !reflect.DeepEqual(got, want) || len(text) > 128 {
			t.Errorf("%q (%d bytes) is %+v, want %+v", text, len(text), got, want)
		}
	}
}

// Bits that look like the name of the other part are bits.
func TestNoteBits(t *testing.T) {
	const text = "done 00000007 AAoutput output 1 2 00000003"
	if got := parseNote(text).String(); got != text {
		t.Errorf("%q is taken for %q", text, got)
	}
}

// A text that is no note's is an empty note.
func TestNoteForeign(t *testing.T) {
	for _, text := range []string{
		"x", "done", "done 00000007", "done 7 gA", "done 00000007 gA x", "done 00000007 !",
		"done 00000007 AA", "done 00000007  gA", "output 1 2", "output 1 2 3",
		"output -1 2 00000003", "output 1 -2 00000003", "done 00000007 gA done 00000007 gA",
	} {
		if got := parseNote(text); !reflect.DeepEqual(got, note{}) {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

// The checksum does not depend on the order of the topics. It tells topics apart, and the messages
// that are delivered.
func TestDoneSum(t *testing.T) {
	first := &started{checksum: 1, delivered: true}
	second := &started{checksum: 2, delivered: true}
	open := &started{checksum: 3}
	same := [][2]uint32{
		{doneSum([]string{"b", "a", "b"}, nil), doneSum([]string{"a", "b"}, nil)},
		{doneSum(nil, []*started{first, open}), doneSum(nil, []*started{first})},
	}
	for i, pair := range same {
		if pair[0] != pair[1] {
			t.Errorf("pair %d: the checksums differ", i)
		}
	}
	sums := map[uint32]bool{
		doneSum(nil, nil):                       true,
		doneSum([]string{"ab"}, nil):            true,
		doneSum([]string{"a", "b"}, nil):        true,
		doneSum(nil, []*started{first}):         true,
		doneSum(nil, []*started{second}):        true,
		doneSum(nil, []*started{first, second}): true,
	}
	if len(sums) != 6 {
		t.Error("two of six checksums are the same")
	}
}
