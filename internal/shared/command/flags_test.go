package command_test

import (
	"flag"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"mbus/internal/shared/command"
)

// parsed parses -size text, and returns the size and the error.
func parsed(text string) (int, error) {
	size := -1
	flags := flag.NewFlagSet("test", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	command.Size(flags, &size, "size")
	return size, flags.Parse([]string{"-size", text})
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int{
		"1": 1, "16777216": 16 << 20, "0010": 10,
		"1KiB": 1 << 10, "1023KiB": 1023 << 10, "16MiB": 16 << 20, "1GiB": 1 << 30,
		fmt.Sprint(math.MaxInt):                  math.MaxInt,
		fmt.Sprintf("%dKiB", math.MaxInt>>10):    math.MaxInt >> 10 << 10,
		fmt.Sprintf("%dGiB", math.MaxInt>>30):    math.MaxInt >> 30 << 30,
		fmt.Sprintf("%040dMiB", math.MaxInt>>20): math.MaxInt >> 20 << 20,
	} {
		if got, err := parsed(text); err != nil || got != want {
			t.Errorf("%s: got %d, error %v, want %d", text, got, err, want)
		}
	}
}

// A text that is not a size is refused with what would be right.
func TestSizeRefused(t *testing.T) {
	const syntax = "must be a count of bytes, at least 1, such as 1000, 64KiB, 16MiB or 1GiB"
	tooLarge := fmt.Sprintf("must be at most %d bytes", math.MaxInt)
	for text, want := range map[string]string{
		"": syntax, "0": syntax, "-1": syntax, "+1": syntax, "0x10": syntax, "1e3": syntax,
		"KiB": syntax, "0KiB": syntax, "-1GiB": syntax, "1.5GiB": syntax, "1K": syntax,
		"1KB": syntax, "1kib": syntax, "1 KiB": syntax, "1KiB ": syntax, "1KiBKiB": syntax,
		fmt.Sprint(uint64(math.MaxInt) + 1):     tooLarge,
		fmt.Sprintf("%dKiB", math.MaxInt>>10+1): tooLarge,
		fmt.Sprintf("%dGiB", math.MaxInt>>30+1): tooLarge,
		"18446744073709551615":                  tooLarge,
		"18446744073709551617":                  tooLarge, // 1<<64 + 1
		"17179869185GiB":                        tooLarge, // 1<<64 + 1<<30
		"9999999999999999999999GiB":             tooLarge,
	} {
		got, err := parsed(text)
		if err == nil || !strings.HasSuffix(err.Error(), ": "+want) || got != -1 {
			t.Errorf("%s: got %d, error %v, want %s", text, got, err, want)
		}
	}
}

// The default of a size has its unit, in a form that the flag accepts.
func TestSizeDefaults(t *testing.T) {
	for size, want := range map[int]string{
		1: "1", 1000: "1000", 1 << 10: "1KiB", 1<<10 + 1: "1025", 1536 << 10: "1536KiB",
		16 << 20: "16MiB", 256 << 20: "256MiB", 1023 << 20: "1023MiB", 1 << 30: "1GiB",
		math.MaxInt: fmt.Sprint(math.MaxInt),
	} {
		flags := flag.NewFlagSet("test", flag.ContinueOnError)
		command.Size(flags, &size, "size")
		if shown := flags.Lookup("size").DefValue; shown != want {
			t.Errorf("%d: the default is %q, want %q", size, shown, want)
		}
		if got, err := parsed(want); err != nil || got != size {
			t.Errorf("%s: got %d, error %v", want, got, err)
		}
	}
}
