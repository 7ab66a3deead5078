package command

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Usage is the text that -h prints, besides the flags.
type Usage struct {
	Synopsis string   // the arguments, in one line
	Order    []string // names of flags, the most needed first
	Statuses []string // the meaning of each exit status, from 0
	Examples []string // command lines, in which NAME is the command's name

	// Confused maps flags of other commands to the flags that their users mean here.
	Confused map[string]string

	// Advise returns advice about an argument that is not a flag, or "". It may be nil.
	Advise func(argument string) string
}

// maxColumns is the width of a line of the usage, in characters.
const maxColumns = 100

// print prints the usage on output.
func (usage *Usage) print(output io.Writer, flags *flag.FlagSet) {
	fmt.Fprintf(output, "usage: %s %s\n\n", flags.Name(), usage.Synopsis)
	usage.printFlags(output, flags)
	fmt.Fprint(output, "\nexit status:\n")
	for status, meaning := range usage.Statuses {
		fmt.Fprintf(output, "  %d  %s\n", status, meaning)
	}
	fmt.Fprint(output, "\nexamples:\n")
	for _, example := range usage.Examples {
		fmt.Fprintf(output, "  %s\n", strings.ReplaceAll(example, "NAME", flags.Name()))
	}
}

// printFlags prints each flag with its argument, its meaning and its default. Flags that
// Order does not name come last.
func (usage *Usage) printFlags(output io.Writer, flags *flag.FlagSet) {
	names := slices.Clone(usage.Order)
	flags.VisitAll(func(each *flag.Flag) {
		if !slices.Contains(names, each.Name) {
			names = append(names, each.Name)
		}
	})
	var rows [][2]string
	width := 0
	for _, name := range names {
		each := flags.Lookup(name)
		argument, meaning := flag.UnquoteUsage(each)
		if each.DefValue != "" && each.DefValue != "false" {
			meaning += fmt.Sprintf(" (default %s)", each.DefValue)
		}
		left := strings.TrimSpace("-" + name + " " + strings.ToUpper(argument))
		rows = append(rows, [2]string{left, meaning})
		width = max(width, len(left))
	}
	rows = append(rows, [2]string{"-h", "print this and exit"})
	for _, row := range rows {
		for _, line := range wrap(row[1], maxColumns-width-4) {
			fmt.Fprintf(output, "  %-*s  %s\n", width, row[0], line)
			row[0] = ""
		}
	}
}

// wrap cuts text between words into lines of at most width bytes. Only a longer word makes a
// longer line.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}

// explain adds the right flag to an error about a flag in Confused.
func (usage *Usage) explain(err error) error {
	name := strings.TrimPrefix(err.Error(), "flag provided but not defined: -")
	if meant, confused := usage.Confused[name]; confused {
		return fmt.Errorf("%w: use -%s", err, meant)
	}
	return err
}

// unexpected returns the error for an argument that is not a flag.
func (usage *Usage) unexpected(argument string) error {
	advice := ""
	if usage.Advise != nil {
		advice = usage.Advise(argument)
	}
	if advice != "" {
		advice = ": " + advice
	}
	return fmt.Errorf("unexpected argument %q%s", argument, advice)
}
