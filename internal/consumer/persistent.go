package consumer

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// pipeSize is the usual size of a pipe's buffer, in bytes.
	pipeSize = 64 << 10

	// maxAnswer is the largest size of an answer with its line feed, in bytes.
	maxAnswer = 4 << 10

	// endPatience is how long a process may take to end after it has closed its input or output,
	// or has broken the protocol. It is also how long the output of a process that has ended is
	// read, if a child of that process holds it open.
	endPatience = 100 * time.Millisecond
)

// errEnded is the error of a message that was given to a process that had ended with status 0
// after its last answer.
var errEnded = errors.New("has ended with status 0 without an answer")

// persistent runs a command once for many messages. It writes one line of JSON for each, and reads
// one line for an answer: "ok ID", or "failed ID" and a reason.
type persistent struct {
	config      *Config
	environment string   // a variable of the job
	process     *process // nil: none runs
}

// run has the command handle a message, and starts it if it does not run. A process that had
// ended with status 0 between two messages is replaced at once.
func (worker *persistent) run(message *message, attempt int) error {
	for {
		if worker.process == nil {
			started, err := startProcess(newProcess(worker.config, worker.environment))
			if err != nil {
				return err
			}
			worker.process = started
		}
		process := worker.process
		err := process.ask(message, attempt)
		if process.hasEnded {
			worker.process = nil
		}
		if !errors.Is(err, errEnded) || !process.hasAnswered {
			return err
		}
	}
}

// close closes the command's standard input, and waits for its end.
func (worker *persistent) close() {
	if worker.process != nil {
		worker.process.stdin.Close()
		<-worker.process.exited
	}
}

// process is a running command. Its methods read and wait are goroutines of their own, and all
// others belong to the job.
type process struct {
	command *exec.Cmd
	stdin   *os.File
	output  *bufio.Writer // to stdin
	objects objects       // to output
	stdout  *os.File

	answers chan string   // has the next answer; closed when no more can come
	fault   error         // set before answers is closed: how the process broke the protocol
	exited  chan struct{} // closed when the process has ended
	err     error         // set before exited is closed: how it ended

	hasAnswered bool // whether it has answered a message
	hasEnded    bool // whether ask has ended it
}

// startProcess starts a command.
func startProcess(command *exec.Cmd) (*process, error) {
	input, stdin, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotRun, err)
	}
	defer input.Close()
	stdout, output, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return nil, fmt.Errorf("%w: %w", errNotRun, err)
	}
	defer output.Close()
	command.Stdin, command.Stdout = input, output
	if err := command.Start(); err != nil {
		stdin.Close()
		stdout.Close()
		return nil, explain(command, err)
	}
	buffer := bufio.NewWriterSize(stdin, pipeSize)
	process := &process{
		command: command, stdin: stdin, output: buffer, objects: objects{stream: buffer},
		stdout: stdout, answers: make(chan string, 1), exited: make(chan struct{}),
	}
	go process.wait()
	go process.read()
	return process, nil
}

// wait waits for the end of the process. A child of it that holds its pipes delays nothing.
func (process *process) wait() {
	process.err = explain(process.command, process.command.Wait())
	close(process.exited)
	process.stdin.Close()
	time.AfterFunc(endPatience, func() { process.stdout.Close() })
}

// read reads answers until the output ends, or has what is no answer. It never waits for the job:
// the job may be writing a long message, and the process may wait for its output to be read.
func (process *process) read() {
	defer close(process.answers)
	defer process.stdout.Close()
	lines := bufio.NewReaderSize(process.stdout, maxAnswer)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == bufio.ErrBufferFull:
			process.fault = fmt.Errorf("has answered more than %d bytes", maxAnswer)
			return
		case err != nil:
			if len(line) > 0 {
				process.fault = fmt.Errorf("has ended in the middle of an answer: %.100q", line)
			}
			return
		}
		select {
		case process.answers <- string(line[:len(line)-1]):
		default:
			process.fault = fmt.Errorf("has answered without a message: %.100q", line)
			return
		}
	}
}

// ask writes a message and returns the error of its answer, or of what came in place of an answer.
// If the process has ended or has broken the protocol, ask ends it.
func (process *process) ask(message *message, attempt int) error {
	select {
	case answer, isOpen := <-process.answers:
		if !isOpen {
			return process.end(nil)
		}
		return process.end(fmt.Errorf("has answered without a message: %.100q", answer))
	default:
	}
	process.objects.write(message, attempt)
	process.output.WriteByte('\n')
	if err := process.output.Flush(); err != nil { // of any write
		process.end(nil) // it may have answered all the same
	}
	answer, isOpen := <-process.answers
	if !isOpen {
		return process.end(nil)
	}
	reason, isFailed := strings.CutPrefix(answer+" ", "failed "+message.id+" ")
	if !isFailed && answer != "ok "+message.id {
		return process.end(fmt.Errorf("has answered %.100q, must answer ok %s or failed %[2]s",
			answer, message.id))
	}
	process.hasAnswered = true
	if !isFailed {
		return nil
	}
	if reason = strings.TrimSpace(reason); reason != "" {
		reason = ": " + reason
	}
	return fmt.Errorf("%s: failed%s", process.command.Args[0], reason)
}

// end ends the process, unless it ends by itself. It returns fault, or the fault that read has
// found, or else how the process ended.
func (process *process) end(fault error) error {
	process.hasEnded = true
	process.stdin.Close()
	timer := time.AfterFunc(endPatience, func() { process.command.Process.Kill() })
	<-process.exited
	isKilled := !timer.Stop()
	for range process.answers { // until read has ended
	}
	switch {
	case fault != nil:
	case process.fault != nil:
		fault = process.fault
	case isKilled:
		fault = errors.New("has closed its input or output")
	case process.err != nil:
		return process.err
	default:
		fault = errEnded
	}
	return fmt.Errorf("%s: %w", process.command.Args[0], fault)
}
