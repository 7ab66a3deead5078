package consumer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"mbus/internal/shared/osfile"
)

// errNotRun is wrapped by the error of a command that could not be run.
var errNotRun = errors.New("the command can't be run")

// runOnce runs the command for the message in hand. The command reads the data from a file without
// a name and not from a pipe: if the consumer were killed, a pipe would end early, and the command
// would take a part of the data for all of it.
func (j *job) runOnce(attempt int) error {
	input, err := spool(j.message.Data)
	if err != nil {
		return fmt.Errorf("%w: its input: %w", errNotRun, err)
	}
	defer input.Close()
	command := j.command("MBUS_TOPIC="+j.message.Topic,
		"MBUS_TIME="+string(j.message.appendTime(nil)), "MBUS_ID="+j.message.id,
		"MBUS_ATTEMPT="+strconv.Itoa(attempt))
	command.Stdin, command.Stdout = input, j.config.Output
	return explain(command, command.Run())
}

// command returns the command, not started, with the job's variable and others in its environment.
func (j *job) command(variables ...string) *exec.Cmd {
	command := exec.Command(j.config.Command[0], j.config.Command[1:]...)
	command.Stderr = j.config.Errors
	command.Env = append(append(os.Environ(), j.variable), variables...)
	return command
}

// spool returns a file without a name that has data, to be read from its start.
func spool(data []byte) (*os.File, error) {
	const prefix = "mbus-consumer-" // of a name, where the file must have one
	file, err := osfile.CreateUnnamed(os.TempDir(), prefix)
	if err != nil {
		return nil, err
	}
	if _, err := file.WriteAt(data, 0); err != nil { // leaves the file's offset at 0
		file.Close()
		return nil, err
	}
	return file, nil
}

// checkCommand returns an error if there is no command of this name, or no room for its input.
func checkCommand(name string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%w: %w", errNotRun, err)
	}
	input, err := spool(make([]byte, os.Getpagesize()))
	if err != nil {
		return fmt.Errorf("a command's input can't be kept in %s (TMPDIR): %w", os.TempDir(), err)
	}
	return input.Close()
}

// explain adds the command's name to the error of a command that has ended, or could not be
// started. The latter wraps errNotRun, and so do the statuses with which shells say the same.
func explain(command *exec.Cmd, err error) error {
	const notExecutable, notFound = 126, 127
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", command.Args[0], err)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() == notExecutable || exit.ExitCode() == notFound {
		return fmt.Errorf("%w: %w", errNotRun, err)
	}
	return err
}
