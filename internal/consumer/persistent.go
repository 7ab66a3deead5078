package consumer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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

// runPersistent has a persistent command handle the message in hand, and starts it if it does not
// run. A process that has ended with status 0 between two messages is replaced at once.
func (j *job) runPersistent(attempt int) error {
	for {
		if j.process == nil {
			p, err := startProcess(j.command())
			if err != nil {
				return err
			}
			j.process = p
		}
		running := j.process
		err := running.ask(j.message, attempt)
		if running.hasEnded {
			j.process = nil
		}
		if !errors.Is(err, errEnded) || !running.hasAnswered {
			return err
		}
	}
}

// close closes the standard input of a persistent command, and waits for the command's end.
func (j *job) close() {
	if j.process != nil {
		j.process.stdin.Close()
		<-j.process.exited
	}
}

// process is a persistent command that runs. It reads one line of JSON for each message, and
// answers one line: "ok ID", or "failed ID" and a reason. Its methods read and wait are goroutines
// of their own, and all others belong to the job.
type process struct {
	command *exec.Cmd
	stdin   io.WriteCloser // is closed when the command has ended
	output  *bufio.Writer  // to stdin
	objects objects        // to output
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
	stdout, writer, err := os.Pipe()
	if err != nil {
		return nil, explain(command, err)
	}
	defer writer.Close()
	command.Stdout = writer
	stdin, err := command.StdinPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		stdout.Close()
		return nil, explain(command, err)
	}
	buffer := bufio.NewWriterSize(stdin, pipeSize)
	p := &process{
		command: command, stdin: stdin, output: buffer, objects: objects{stream: buffer},
		stdout: stdout, answers: make(chan string, 1), exited: make(chan struct{}),
	}
	go p.wait()
	go p.read()
	return p, nil
}

// wait waits for the end of the process. A child of it that holds its pipes delays nothing.
func (p *process) wait() {
	p.err = explain(p.command, p.command.Wait())
	close(p.exited)
	time.AfterFunc(endPatience, func() { p.stdout.Close() })
}

// read reads answers until the output ends, or has what is no answer. It never waits for the job:
// the job may be writing a long message, and the process may wait for its output to be read.
func (p *process) read() {
	defer close(p.answers)
	defer p.stdout.Close()
	lines := bufio.NewReaderSize(p.stdout, maxAnswer)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == bufio.ErrBufferFull:
			p.fault = fmt.Errorf("has answered more than %d bytes", maxAnswer)
			return
		case err != nil:
			if len(line) > 0 {
				p.fault = fmt.Errorf("has ended in the middle of an answer: %.100q", line)
			}
			return
		}
		select {
		case p.answers <- string(line[:len(line)-1]):
		default:
			p.fault = fmt.Errorf("has answered without a message: %.100q", line)
			return
		}
	}
}

// ask writes a message and returns the error of its answer, or of what came in place of an answer.
// If the process has ended or has broken the protocol, ask ends it.
func (p *process) ask(m message, attempt int) error {
	select {
	case answer, isOpen := <-p.answers:
		if !isOpen {
			return p.end(nil)
		}
		return p.end(fmt.Errorf("has answered without a message: %.100q", answer))
	default:
	}
	p.objects.write(m, attempt)
	p.output.WriteByte('\n')
	if err := p.output.Flush(); err != nil { // of any write
		return p.end(nil) // an answer does not count before the whole line was read
	}
	answer, isOpen := <-p.answers
	if !isOpen {
		return p.end(nil)
	}
	reason, isFailed := strings.CutPrefix(answer+" ", "failed "+m.id+" ")
	if !isFailed && answer != "ok "+m.id {
		return p.end(fmt.Errorf("has answered %.100q, must answer ok %s or failed %[2]s",
			answer, m.id))
	}
	p.hasAnswered = true
	if !isFailed {
		return nil
	}
	if reason = strings.TrimSpace(reason); reason != "" {
		reason = ": " + reason
	}
	return fmt.Errorf("%s: failed%s", p.command.Args[0], reason)
}

// end ends the process, unless it ends by itself. It returns fault, or the fault that read has
// found, or else how the process ended.
func (p *process) end(fault error) error {
	p.hasEnded = true
	p.stdin.Close()
	timer := time.AfterFunc(endPatience, func() { p.command.Process.Kill() })
	<-p.exited
	var exit *exec.ExitError
	// The kill comes too late for a process that is already ending: it has a status of its own.
	isKilled := !timer.Stop() && errors.As(p.err, &exit) && !exit.Exited()
	for range p.answers { // until read has ended
	}
	switch {
	case fault != nil:
	case p.fault != nil:
		fault = p.fault
	case isKilled:
		fault = errors.New("has closed its input or output")
	case p.err != nil:
		return p.err
	default:
		fault = errEnded
	}
	return fmt.Errorf("%s: %w", p.command.Args[0], fault)
}
