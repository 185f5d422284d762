// Package forwarder is the forwarder of a node: the chain of cmd-forwarder-vpp with a small data plane in the place
// of VPP.
package forwarder

import (
	"fmt"
	"path/filepath"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/vxlan"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/cleanup"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/connect"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/discover"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/filtermechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/recvfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanismtranslation"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/null"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/roundrobin"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	registryrecvfd "github.com/networkservicemesh/sdk/pkg/registry/common/recvfd"
	registrysendfd "github.com/networkservicemesh/sdk/pkg/registry/common/sendfd"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/dataplane"
	"vl3-lb.io/tests/nsm/mesh/identity"
	"vl3-lb.io/tests/nsm/mesh/part"
	"vl3-lb.io/tests/nsm/mesh/registry"
)

// Config of the forwarder.
type Config struct {
	config.Part
	// ConnectTo is the manager's socket.
	ConnectTo string `json:"connectTo"`
	// Socket that it listens on: unix://.
	Socket string `json:"socket"`
	// Router is the path of the network namespace between the clients.
	Router string `json:"router"`
	// Link is the type of the clients' interfaces.
	Link dataplane.Link `json:"link"`
}

// Run serves until the process is told to end.
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
	connectTo, err := config.URL("connectTo", configuration.ConnectTo)
	if err != nil {
		return err
	}
	socket, err := config.URL("socket", configuration.Socket)
	if err != nil {
		return err
	}
	router, err := dataplane.OpenNetns(configuration.Router)
	if err != nil {
		return err
	}
	plane, err := dataplane.New(router, configuration.Link)
	if err != nil {
		return err
	}
	own, err := identity.Fetch(ctx, &configuration.Part)
	if err != nil {
		return err
	}
	dial := own.DialOptions(identity.Block, identity.Wait)

	services := registryclient.NewNetworkServiceRegistryClient(ctx,
		registryclient.WithClientURL(connectTo),
		registryclient.WithDialOptions(dial...),
		registryclient.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(
			registryauthorize.WithPolicies(registry.ClientPolicies...))))
	endpoints := registryclient.NewNetworkServiceEndpointRegistryClient(ctx,
		registryclient.WithClientURL(connectTo),
		registryclient.WithDialOptions(dial...),
		registryclient.WithNSEAdditionalFunctionality(
			registryrecvfd.NewNetworkServiceEndpointRegistryClient(),
			registrysendfd.NewNetworkServiceEndpointRegistryClient()),
		registryclient.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(
			registryauthorize.WithPolicies(registry.ClientPolicies...))))

	chain := endpoint.NewServer(ctx, own.Tokens,
		endpoint.WithName(configuration.Name),
		endpoint.WithAuthorizeServer(authorize.NewServer()),
		endpoint.WithAdditionalFunctionality(
			recvfd.NewServer(),
			sendfd.NewServer(),
			discover.NewServer(services, endpoints),
			roundrobin.NewServer(),
			mechanisms.NewServer(map[string]networkservice.NetworkServiceServer{
				kernel.MECHANISM: newKernelServer(plane),
				// Between forwarders, and to endpoints: the router is one, so there is nothing to make.
				vxlan.MECHANISM: null.NewServer(),
				memif.MECHANISM: null.NewServer(),
			}),
			connect.NewServer(client.NewClient(ctx,
				client.WithoutRefresh(),
				client.WithName(configuration.Name),
				client.WithDialOptions(dial...),
				client.WithDialTimeout(identity.DialTimeout),
				client.WithAdditionalFunctionality(
					cleanup.NewClient(ctx),
					mechanismtranslation.NewClient(),
					newPreferenceClient(),
					filtermechanisms.NewClient(),
					recvfd.NewClient(),
					sendfd.NewClient(),
				),
			)),
		),
	)
	server := grpc.NewServer(grpc.Creds(own.ServerCredentials()))
	chain.Register(server)
	failed := make(chan error, 1)
	if err := part.Serve(ctx, socket, server, failed); err != nil {
		return err
	}

	registration := &registryapi.NetworkServiceEndpoint{
		Name:                configuration.Name,
		NetworkServiceNames: []string{"forwarder"},
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{
			"forwarder": {Labels: map[string]string{"p2p": "true"}},
		},
		Url: socket.String(),
	}
	if _, err := endpoints.Register(ctx, registration); err != nil {
		return fmt.Errorf("register %s: %w", configuration.Name, err)
	}
	if err := process.Report(map[string]string{
		"socket": filepath.Clean(socket.Path), "link": string(configuration.Link),
	}); err != nil {
		return err
	}
	return part.Wait(ctx, failed)
}
