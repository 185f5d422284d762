// Package part is the frame of a process of the mesh: it reads commands on stdin and reports its state on stdout, both
// as JSON, one object per line; the log goes to stderr.
package part

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	nested "github.com/antonfisher/nested-logrus-formatter"
	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"github.com/networkservicemesh/sdk/pkg/tools/log/logruslogger"
	"github.com/sirupsen/logrus"
)

// Command asks a running part to do something.
type Command struct {
	ID        uint64          `json:"id"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
}

// Message is what a part writes: its state, or the answer to a command.
type Message struct {
	// State replaces the one of earlier messages. A part is ready once it has sent one.
	State json.RawMessage `json:"state,omitempty"`
	// Answered is the id of the command that this answers.
	Answered uint64 `json:"answered,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Process is the running part.
type Process struct {
	output sync.Mutex
	mutex  sync.Mutex
	// By the names of commands.
	handlers map[string]func(json.RawMessage) error
}

// ReadyFileVariable of the environment names a file that exists once the part is ready: for the probes of a pod, whose
// kubelet does not read stdout.
const ReadyFileVariable = "MESH_READY_FILE"

// Start sets up log and signals: the context ends with SIGTERM or SIGINT.
func Start(logLevel string) (*Process, context.Context, context.CancelFunc, error) {
	if logLevel == "" {
		logLevel = "info"
	}
	level, err := logrus.ParseLevel(logLevel)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("logLevel: %w", err)
	}
	logrus.SetLevel(level)
	logrus.SetFormatter(&nested.Formatter{NoColors: true, TimestampFormat: "15:04:05.000"})
	log.EnableTracing(level >= logrus.TraceLevel)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	ctx = log.WithLog(ctx, logruslogger.New(ctx))
	process := &Process{handlers: make(map[string]func(json.RawMessage) error)}
	go process.readCommands()
	return process, ctx, cancel, nil
}

// Handle calls handler for each command of this name.
func (p *Process) Handle(name string, handler func(json.RawMessage) error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.handlers[name] = handler
}

// Report says that the part is ready, and in which state it is.
func (p *Process) Report(state any) error {
	encoded, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("report the state: %w", err)
	}
	if path := os.Getenv(ReadyFileVariable); path != "" {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return fmt.Errorf("make the file %s of %s: %w", path, ReadyFileVariable, err)
		}
	}
	return p.write(Message{State: encoded})
}

func (p *Process) readCommands() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var command Command
		if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
			logrus.Errorf("read a command from stdin: %v", err)
			continue
		}
		// Apart: a command may take long, and others may follow.
		go p.answer(command)
	}
}

func (p *Process) answer(command Command) {
	p.mutex.Lock()
	handler := p.handlers[command.Name]
	p.mutex.Unlock()
	err := fmt.Errorf("this part has no command %q", command.Name)
	if handler != nil {
		err = handler(command.Arguments)
	}
	message := Message{Answered: command.ID}
	if err != nil {
		message.Error = err.Error()
	}
	if err := p.write(message); err != nil {
		logrus.Errorf("answer the command %s: %v", command.Name, err)
	}
}

func (p *Process) write(message Message) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	p.output.Lock()
	defer p.output.Unlock()
	_, err = os.Stdout.Write(append(line, '\n'))
	return err
}
