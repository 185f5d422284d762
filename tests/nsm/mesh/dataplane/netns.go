// Package dataplane is the stand-in for VPP: a router in a network namespace, and interfaces from it into the network
// namespaces of clients.
package dataplane

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Netns is an open network namespace.
type Netns struct {
	file *os.File
}

// OpenNetns opens the namespace that a path below /proc or /run/netns names.
func OpenNetns(path string) (*Netns, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace %s: %w", path, err)
	}
	return &Netns{file: file}, nil
}

// NewNetns makes a namespace that exists as long as something holds it open or runs in it.
func NewNetns() (*Netns, error) {
	var made *Netns
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		opened, err := OpenNetns("/proc/thread-self/ns/net")
		made = opened
		return err
	})
	return made, err
}

// Path names the namespace to other processes, while this one holds it open.
func (n *Netns) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// Descriptor of the namespace; valid until Close.
func (n *Netns) Descriptor() int { return int(n.file.Fd()) }

// Close lets go of the namespace.
func (n *Netns) Close() error { return n.file.Close() }

// Run calls work on a thread that is in the namespace. What work starts stays on other threads.
func (n *Netns) Run(work func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(n.Descriptor(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return work()
	})
}

// Sysctl sets a parameter of the namespace, named by its path below /proc/sys.
func (n *Netns) Sysctl(path, value string) error {
	return n.Run(func() error {
		if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", path, value, err)
		}
		return nil
	})
}

// onOwnThread calls work on a thread that ends with it: its namespaces are no concern of others.
func onOwnThread(work func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		defer func() {
			if problem := recover(); problem != nil {
				result <- errors.New(fmt.Sprint(problem))
			}
		}()
		result <- work()
	}()
	return <-result
}
