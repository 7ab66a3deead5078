package consumer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"mbus/internal/shared/osfile"
)

// inputPrefix begins the name of a command's input where the file must have a name.
const inputPrefix = "mbus-consumer-"

// errNotRun is wrapped by the error of a command that could not be run.
var errNotRun = errors.New("the command can't be run")

// command runs a command once for each message.
type command struct {
	config      *Config
	environment string // a variable of the job
}

// run runs the command once. The command reads the data from a file without a name and not from a
// pipe: if the consumer were killed, a pipe would end early, and the command would take a part
// of the data for all of it.
func (c *command) run(m *message, attempt int) error {
	input, err := spool(m.Data)
	if err != nil {
		return fmt.Errorf("%w: its input: %w", errNotRun, err)
	}
	defer input.Close()
	p2 := newProcess(c.config, c.environment,
		"MBUS_TOPIC="+m.Topic, "MBUS_TIME="+string(m.appendTime(nil)),
		"MBUS_ID="+m.id, "MBUS_ATTEMPT="+strconv.Itoa(attempt))
	p2.Stdin, p2.Stdout = input, c.config.Output
	return explain(p2, p2.Run())
}

// close does nothing: no process is left.
func (c *command) close() {}

// spool returns a file without a name that has data, to be read from its start.
func spool(data []byte) (*os.File, error) {
	file, err := osfile.CreateUnnamed(os.TempDir(), inputPrefix)
	if err != nil {
		return nil, err
	}
	if _, err := file.WriteAt(data, 0); err != nil { // leaves the file's offset at 0
		file.Close()
		return nil, err
	}
	return file, nil
}

// checkRoom returns an error if there is no place for the input of a command.
func checkRoom() error {
	input, err := spool(make([]byte, os.Getpagesize()))
	if err != nil {
		return fmt.Errorf("a command's input can't be kept in %s (TMPDIR): %w", os.TempDir(), err)
	}
	return input.Close()
}

// newProcess returns Config.Command, not started, with further variables in its environment.
func newProcess(config *Config, variables ...string) *exec.Cmd {
	process := exec.Command(config.Command[0], config.Command[1:]...)
	process.Stderr = config.Errors
	process.Env = append(os.Environ(), variables...)
	return process
}

// explain adds the command's name to the error of a process that has ended, or could not be
// started. The latter wraps errNotRun, and so do the statuses with which shells say the same.
func explain(process *exec.Cmd, err error) error {
	const notExecutable, notFound = 126, 127
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", process.Args[0], err)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() == notExecutable || exit.ExitCode() == notFound {
		return fmt.Errorf("%w: %w", errNotRun, err)
	}
	return err
}
