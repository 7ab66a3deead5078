package command

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Text adds a flag for a text that must not be empty. The kind, such as "a file", completes the
// error for an empty text: must be a file.
func Text(flags *flag.FlagSet, target *string, name, kind string) {
	parse := func(text string) (string, error) {
		if text == "" {
			return "", errors.New("must be " + kind)
		}
		return text, nil
	}
	flags.Var(flagValue[string]{target, parse, strings.Clone}, name, "")
}

// Duration adds a flag for a duration, in the form that time.ParseDuration takes.
func Duration(flags *flag.FlagSet, target *time.Duration, name string) {
	flags.Var(flagValue[time.Duration]{target, parseDuration, time.Duration.String}, name, "")
}

// Size adds a flag for a count of bytes from 1 to math.MaxInt, plain or in KiB, MiB or GiB. Its
// default has the same form.
func Size(flags *flag.FlagSet, target *int, name string) {
	flags.Var(flagValue[int]{target, parseSize, formatSize}, name, "")
}

// flagValue is a flag.Value. The errors of parse say what would be right.
type flagValue[T any] struct {
	target *T
	parse  func(string) (T, error)
	format func(T) string
}

// String implements flag.Value.
func (v flagValue[T]) String() string {
	if v.target == nil { // package flag calls String on a zero value
		return ""
	}
	return v.format(*v.target)
}

// Set implements flag.Value.
func (v flagValue[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err == nil {
		*v.target = parsed
	}
	return err
}

func parseDuration(text string) (time.Duration, error) {
	duration, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("must be a duration, such as 5s or 100ms")
	}
	return duration, nil
}

// units returns the names of 1<<10, 1<<20 and 1<<30 bytes, as IEC 80000-13 defines them.
func units() []string {
	return []string{"KiB", "MiB", "GiB"}
}

func parseSize(text string) (int, error) {
	digits, unit := text, uint64(1)
	for i, name := range units() {
		if before, found := strings.CutSuffix(text, name); found {
			digits, unit = before, 1<<(10*(i+1))
		}
	}
	count, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), count > math.MaxInt/unit:
		return 0, fmt.Errorf("must be at most %d bytes", math.MaxInt)
	case err != nil, count == 0:
		return 0, errors.New("must be a count of bytes, at least 1, " +
			"such as 1000, 64KiB, 16MiB or 1GiB")
	}
	return int(count * unit), nil
}

// formatSize returns size in the largest unit that divides it.
func formatSize(size int) string {
	name := ""
	for _, larger := range units() {
		if size == 0 || size%1024 != 0 {
			break
		}
		size, name = size/1024, larger
	}
	return strconv.Itoa(size) + name
}
