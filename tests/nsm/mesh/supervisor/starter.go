package supervisor

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// starter starts processes in network namespaces. It has a thread for itself that lives as long as this process:
// children die with the thread that started them.
type starter struct {
	orders chan order
}

type order struct {
	command *exec.Cmd
	netns   *dataplane.Netns
	result  chan error
}

func newStarter() (*starter, error) {
	s := &starter{orders: make(chan order)}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := dataplane.OpenNetns("/proc/thread-self/ns/net")
		ready <- err
		if err != nil {
			return
		}
		for order := range s.orders {
			order.result <- startIn(order.command, order.netns, own)
		}
	}()
	return s, <-ready
}

// start starts a command whose network is netns.
func (s *starter) start(command *exec.Cmd, netns *dataplane.Netns) error {
	result := make(chan error)
	s.orders <- order{command: command, netns: netns, result: result}
	return <-result
}

func startIn(command *exec.Cmd, netns, own *dataplane.Netns) error {
	if err := unix.Setns(netns.Descriptor(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace of %s: %w", command.Args[1], err)
	}
	err := command.Start()
	if back := unix.Setns(own.Descriptor(), unix.CLONE_NEWNET); back != nil {
		err = errors.Join(err, fmt.Errorf("return to the own network namespace: %w", back))
	}
	return err
}
