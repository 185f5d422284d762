// mesh is the control plane of Network Service Mesh on one machine, for tests and demos: the real SDK with real mTLS
// and policies, and a small data plane in the place of VPP. README.md in the folder above says how to use it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"vl3-lb.io/tests/nsm/mesh/agent"
	"vl3-lb.io/tests/nsm/mesh/client"
	"vl3-lb.io/tests/nsm/mesh/endpoint"
	"vl3-lb.io/tests/nsm/mesh/forwarder"
	"vl3-lb.io/tests/nsm/mesh/ipam"
	"vl3-lb.io/tests/nsm/mesh/manager"
	"vl3-lb.io/tests/nsm/mesh/registry"
	"vl3-lb.io/tests/nsm/mesh/supervisor"
	"vl3-lb.io/tests/nsm/mesh/webhook"
)

// The parts, each a process of its own that takes its configuration as JSON.
var parts = map[string]func(string) error{
	"registry":  registry.Run,
	"ipam":      ipam.Run,
	"manager":   manager.Run,
	"forwarder": forwarder.Run,
	"endpoint":  endpoint.Run,
	"client":    client.Run,
	"agent":     agent.Run,
	"webhook":   webhook.Run,
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) > 0 && arguments[0] == "up" {
		return supervisor.Run(arguments[1:])
	}
	if len(arguments) == 2 {
		if run := parts[arguments[0]]; run != nil {
			return run(arguments[1])
		}
	}
	return fmt.Errorf("usage: mesh up OPTION..., or mesh PART CONFIGURATION with one of the parts " +
		"registry, ipam, manager, forwarder, endpoint, client, agent, webhook")
}
