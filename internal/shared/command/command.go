// Package command is what the mbus commands share: how they read their arguments, stop on
// signals, limit their memory and report errors.
package command

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"mbus/internal/shared/address"
	"mbus/internal/shared/escape"
)

// The exit statuses of all commands.
const (
	Success = 0
	Failure = 1
	Misuse  = 2 // wrong arguments
)

// version is the Makefile's version, from git. The linker sets it (-X). If it is empty, see
// Parse.
var version string

// Name returns the name of the command at path: the path's last element, without .exe.
func Name(path string) string {
	return strings.TrimSuffix(filepath.Base(path), ".exe")
}

// Parse adds -version to flags and parses a command's arguments. It prints the answers to -h and
// -version on stdout, and one line about a wrong flag on stderr. If it has printed something, done
// is true, and the command must exit with status. Parse accepts arguments after the flags: see
// Unexpected.
//
// The answer to -h is help. It begins with "usage: " and the command's installed name, which
// Parse replaces everywhere by the name that the command was run by. The version is the
// Makefile's. In a binary built without it, the version is Go's own.
func Parse(
	flags *flag.FlagSet, help string, arguments []string, stdout, stderr io.Writer,
) (status int, done bool) {
	wanted := flags.Bool("version", false, "")
	flags.SetOutput(io.Discard) // otherwise Parse would print a usage of its own
	err := flags.Parse(arguments)
	switch {
	case errors.Is(err, flag.ErrHelp):
		installed := strings.Fields(help)[1]
		fmt.Fprint(stdout, strings.ReplaceAll(help, installed, flags.Name()))
		return Success, true
	case err != nil:
		return UsageError(flags, suggest(flags, err), stderr), true
	case *wanted:
		build, _ := debug.ReadBuildInfo() // nil only in a program built without modules
		name := strings.TrimPrefix(flags.Name(), "mbus-")
		fmt.Fprintf(stdout, "mbus %s %s, %s\n",
			name, cmp.Or(version, build.Main.Version), build.GoVersion)
		return Success, true
	}
	return Success, false
}

// suggest adds the right flag to err, if err is about an unknown flag that has a p too many or too
// few: the broker's flags are -phost and -pport, the producer's -host and -port.
func suggest(flags *flag.FlagSet, err error) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	for _, meant := range []string{"p" + name, strings.TrimPrefix(name, "p")} {
		if unknown && flags.Lookup(meant) != nil {
			return fmt.Errorf("%w: use -%s", err, meant)
		}
	}
	return err
}

// Unexpected returns an error about the first argument after the flags, or nil if there is
// none. The hint says what would be right. It may be empty.
func Unexpected(flags *flag.FlagSet, hint string) error {
	if flags.NArg() == 0 {
		return nil
	}
	if hint != "" {
		hint = ": " + hint
	}
	return fmt.Errorf("unexpected argument %q%s", flags.Arg(0), hint)
}

// CheckPort returns an error if the flag port was given, and the flag host is the path of a Unix
// socket, which has no port. host and port are the names of the flags.
func CheckPort(flags *flag.FlagSet, host, port string) (err error) {
	flags.Visit(func(given *flag.Flag) {
		if given.Name == port && address.IsPath(flags.Lookup(host).Value.String()) {
			err = fmt.Errorf("-%s: must be without it, because -%s is a path", port, host)
		}
	})
	return err
}

// UsageError prints an error of the arguments on stderr, with a hint at -h. It returns Misuse.
func UsageError(flags *flag.FlagSet, err error, stderr io.Writer) int {
	Report(stderr, flags.Name(), fmt.Sprintf("%v (see %s -h)", err, flags.Name()))
	return Misuse
}

// Report writes text to stderr as one printable line that starts with the command's name. It waits
// at most 200 ms, because a command must exit even if nobody reads its standard error.
func Report(stderr io.Writer, name, text string) {
	const patience = 200 * time.Millisecond
	line := name + ": " + text
	unprintable := func(character rune) bool { return !strconv.IsPrint(character) }
	if !utf8.ValidString(line) || strings.ContainsFunc(line, unprintable) {
		line = string(escape.Append(nil, []byte(line)))
	}
	printed := make(chan struct{})
	go func() {
		fmt.Fprintln(stderr, line)
		close(printed)
	}()
	select {
	case <-printed:
	case <-time.After(patience):
	}
}

// IsTerminal reports whether file is a terminal.
func IsTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && !isNull(info)
}

// IsClosed reports whether standard input, output or error was closed when the process started. In
// place of a closed one, the Go runtime opens the null device for reading and writing. So a null
// device that can be read counts as closed, even if the parent process has opened it so. A shell's
// > /dev/null opens it for writing alone.
func IsClosed(standard *os.File) bool {
	info, err := standard.Stat()
	if err != nil || !isNull(info) {
		return err != nil
	}
	_, err = standard.Read(make([]byte, 1))
	return err == io.EOF // any other error means that it can't be read
}

// isNull reports whether info describes the null device. Like a terminal, it is a character device.
func isNull(info os.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(info, null)
}
