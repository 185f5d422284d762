package supervisor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
	"vl3-lb.io/tests/nsm/mesh/part"
)

const (
	// Longest start of a part, and longest answer to a command.
	startTimeout   = 30 * time.Second
	commandTimeout = 30 * time.Second
	// Lines of the log that an error quotes.
	quotedLines = 5
)

// Spec says what a part is; it stays the same when the part is restarted.
type Spec struct {
	// Kind is the name of the program: registry, ipam, manager, forwarder, endpoint, client.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Node whose manager it uses.
	Node int `json:"node"`
	// Netns is the path of the network namespace that it runs in.
	Netns string `json:"netns,omitempty"`
	// User id that it runs as, with CAP_NET_RAW alone. 0 is root.
	User uint32 `json:"user,omitempty"`
	// Config has fields that differ from the defaults.
	Config map[string]any `json:"config,omitempty"`
}

// child is a part: a process, or none between two.
type child struct {
	spec          Spec
	configuration string
	netns         *dataplane.Netns
	log           string

	// One start or stop at a time.
	changes sync.Mutex

	mutex   sync.Mutex
	command *exec.Cmd
	stdin   io.WriteCloser
	starts  int
	ready   chan struct{}
	ended   chan struct{}
	state   json.RawMessage
	// Commands that have no answer yet.
	pending map[uint64]chan error
	last    uint64
}

// status of a part, as the control server shows it.
type status struct {
	Spec
	Pid int `json:"pid,omitempty"`
	// Starts so far.
	Starts int  `json:"starts"`
	Ready  bool `json:"ready"`
	// State that the part reported last.
	State json.RawMessage `json:"state,omitempty"`
	Log   string          `json:"log"`
}

func (c *child) status() status {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	result := status{Spec: c.spec, Starts: c.starts, State: c.state, Log: c.log, Ready: c.command != nil && c.state != nil}
	if c.command != nil {
		result.Pid = c.command.Process.Pid
	}
	return result
}

// start starts the process and waits until it is ready.
func (c *child) start(starter *starter) error {
	c.changes.Lock()
	defer c.changes.Unlock()
	if c.running() {
		return fmt.Errorf("%s is running already", c.spec.Name)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.log), 0o755); err != nil {
		return err
	}
	output, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", c.spec.Name, err)
	}
	defer func() { _ = output.Close() }()
	command := exec.Command(program, c.spec.Kind, c.configuration)
	command.Stderr = output
	command.SysProcAttr = c.attributes()
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := starter.start(command, c.netns); err != nil {
		return fmt.Errorf("start %s: %w", c.spec.Name, err)
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	c.mutex.Lock()
	c.command, c.stdin, c.ready, c.ended, c.state = command, stdin, ready, ended, nil
	c.pending = make(map[uint64]chan error)
	c.starts++
	c.mutex.Unlock()
	go c.follow(command, stdout, ready, ended)
	select {
	case <-ready:
		return nil
	case <-ended:
		return fmt.Errorf("%s ended instead of starting: %s", c.spec.Name, c.quote())
	case <-time.After(startTimeout):
		return fmt.Errorf("%s is not ready after %s: %s", c.spec.Name, startTimeout, c.quote())
	}
}

func (c *child) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.spec.Kind == "manager" {
		// For its folder in /var/lib.
		attributes.Cloneflags = syscall.CLONE_NEWNS
	}
	if c.spec.User != 0 {
		attributes.Credential = &syscall.Credential{Uid: c.spec.User, Gid: c.spec.User}
		const capNetRaw = 13
		attributes.AmbientCaps = []uintptr{capNetRaw}
	}
	return attributes
}

// follow reads what the process writes, until it ends.
func (c *child) follow(command *exec.Cmd, stdout io.Reader, ready, ended chan struct{}) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 16<<20)
	isReady := false
	for lines.Scan() {
		var message part.Message
		if err := json.Unmarshal(lines.Bytes(), &message); err != nil {
			continue
		}
		c.mutex.Lock()
		if message.State != nil {
			c.state = message.State
		}
		answer := c.pending[message.Answered]
		delete(c.pending, message.Answered)
		c.mutex.Unlock()
		if message.State != nil && !isReady {
			isReady = true
			close(ready)
		}
		if answer != nil {
			var err error
			if message.Error != "" {
				err = errors.New(message.Error)
			}
			answer <- err
		}
	}
	// How it ended is in its log.
	_ = command.Wait()
	c.mutex.Lock()
	c.command, c.stdin = nil, nil
	for _, answer := range c.pending {
		answer <- fmt.Errorf("%s ended", c.spec.Name)
	}
	c.pending = nil
	c.mutex.Unlock()
	close(ended)
}

// ask sends a command and waits for its answer.
func (c *child) ask(name string, arguments json.RawMessage) error {
	c.mutex.Lock()
	if c.command == nil {
		c.mutex.Unlock()
		return fmt.Errorf("%s is not running", c.spec.Name)
	}
	c.last++
	answer := make(chan error, 1)
	c.pending[c.last] = answer
	line, err := json.Marshal(part.Command{ID: c.last, Name: name, Arguments: arguments})
	if err == nil {
		_, err = c.stdin.Write(append(line, '\n'))
	}
	c.mutex.Unlock()
	if err != nil {
		return fmt.Errorf("send %s to %s: %w", name, c.spec.Name, err)
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(commandTimeout):
		return fmt.Errorf("%s has not answered %s after %s", c.spec.Name, name, commandTimeout)
	}
}

// stop sends a signal and waits for the end.
func (c *child) stop(signal syscall.Signal) error {
	c.changes.Lock()
	defer c.changes.Unlock()
	if err := c.signal(signal); err != nil {
		return err
	}
	c.mutex.Lock()
	ended := c.ended
	c.mutex.Unlock()
	select {
	case <-ended:
		return nil
	case <-time.After(startTimeout):
		return fmt.Errorf("%s has not ended %s after %s", c.spec.Name, startTimeout, signal)
	}
}

func (c *child) signal(signal syscall.Signal) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.command == nil {
		return fmt.Errorf("%s is not running", c.spec.Name)
	}
	if err := c.command.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s: %w", signal, c.spec.Name, err)
	}
	return nil
}

func (c *child) running() bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.command != nil
}

func (c *child) quote() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(len(lines)-quotedLines, 0):], "; ") + " (" + c.log + ")"
}
