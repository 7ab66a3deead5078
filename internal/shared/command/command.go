// Package command is what the two commands have in common: how they read their
// arguments and how they say what is wrong with them.
package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"mbus/internal/shared/escape"
)

// The exit statuses of both commands.
const (
	Success = 0
	Failure = 1 // the broker could not start or lost messages; the producer's were not accepted
	Misuse  = 2 // wrong flags or arguments
)

// Parse reads a command's arguments into flags, to which it adds -version. If
// the command has nothing to do after that, because usage or version were asked
// for and have been printed to stdout or because an argument is wrong and one
// line on stderr has said so, then done is true and status is the exit status.
func Parse(flags *flag.FlagSet, synopsis string, arguments []string, stdout, stderr io.Writer) (status int, done bool) {
	version := flags.Bool("version", false, "print the version and exit")
	flags.SetOutput(io.Discard) // it would print the whole usage after an error
	err := flags.Parse(arguments)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "usage: %s %s\n", flags.Name(), synopsis)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return Success, true
	case err != nil:
		return Wrong(flags, err, stderr), true
	case *version:
		build, _ := debug.ReadBuildInfo() // nil only in a program built without modules
		fmt.Fprintf(stdout, "mbus %s %s, %s\n", flags.Name(), build.Main.Version, build.GoVersion)
		return Success, true
	case flags.NArg() > 0:
		return Wrong(flags, fmt.Errorf("unexpected argument %q", flags.Arg(0)), stderr), true
	}
	return Success, false
}

// Wrong says on stderr what is wrong with the arguments, and how to see what is
// right, and returns Misuse.
func Wrong(flags *flag.FlagSet, err error, stderr io.Writer) int {
	Say(stderr, flags.Name(), fmt.Sprintf("%v (see %s -h)", err, flags.Name()))
	return Misuse
}

// Say prints text on stderr as one line that starts with the command's name.
// Where that can't be done at once, because stderr is a pipe that nobody reads, it
// stays unsaid: the exit status must come all the same.
func Say(stderr io.Writer, name, text string) {
	const patience = 200 * time.Millisecond
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(character rune) bool { return !strconv.IsPrint(character) }) {
		text = string(escape.Append(nil, []byte(text)))
	}
	said := make(chan struct{})
	go func() {
		fmt.Fprintf(stderr, "%s: %s\n", name, text)
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(patience):
	}
}

// IsTerminal tells whether file is a terminal.
func IsTerminal(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull) // the other character device that people use
	return err != nil || !os.SameFile(info, null)
}
