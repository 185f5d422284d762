// Package ipam gives prefixes to the endpoints of a vL3 network: the SDK's server, as in cmd-ipam-vl3.
package ipam

import (
	"fmt"
	"net"

	"github.com/networkservicemesh/api/pkg/api/ipam"
	"github.com/networkservicemesh/sdk/pkg/ipam/vl3ipam"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/identity"
	"vl3-lb.io/tests/nsm/mesh/part"
)

// Config of the IPAM server.
type Config struct {
	config.Part
	ListenOn string `json:"listenOn"`
	// Prefix of the whole network.
	Prefix string `json:"prefix"`
	// EndpointPrefixLength of the prefix that each endpoint gets. Default: 24 for IPv4, 112 for IPv6.
	EndpointPrefixLength uint8 `json:"endpointPrefixLength,omitempty"`
}

// Run serves until the process is asked to end.
func Run(text string) error {
	var configuration Config
	if err := config.Read(text, &configuration); err != nil {
		return err
	}
	process, ctx, cancel, err := part.Start(configuration.LogLevel)
	if err != nil {
		return err
	}
	defer cancel()
	listenOn, err := config.URL("listenOn", configuration.ListenOn)
	if err != nil {
		return err
	}
	_, prefix, err := net.ParseCIDR(configuration.Prefix)
	if err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	length := configuration.EndpointPrefixLength
	switch {
	case length != 0:
	case prefix.IP.To4() != nil:
		length = 24
	default:
		length = 112
	}
	own, err := identity.Fetch(ctx, &configuration.Part)
	if err != nil {
		return err
	}

	server := grpc.NewServer(grpc.Creds(own.ServerCredentials()))
	ipam.RegisterIPAMServer(server, vl3ipam.NewIPAMServer(prefix.String(), length))
	failed := make(chan error, 1)
	if err := part.Serve(ctx, listenOn, server, failed); err != nil {
		return err
	}
	if err := process.Report(map[string]string{"url": listenOn.String(), "prefix": prefix.String()}); err != nil {
		return err
	}
	return part.Wait(ctx, failed)
}
