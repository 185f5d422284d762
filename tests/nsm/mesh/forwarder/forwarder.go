// Package forwarder is the forwarder of a node: the chain of cmd-forwarder-vpp with a small data plane in the place
// of VPP.
package forwarder

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

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
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/vxlan/vni"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanismtranslation"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/null"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/roundrobin"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	registryrecvfd "github.com/networkservicemesh/sdk/pkg/registry/common/recvfd"
	registrysendfd "github.com/networkservicemesh/sdk/pkg/registry/common/sendfd"
	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/dataplane"
	"vl3-lb.io/tests/nsm/mesh/identity"
	"vl3-lb.io/tests/nsm/mesh/part"
	"vl3-lb.io/tests/nsm/mesh/registry"
)

const registrationRetry = 200 * time.Millisecond

// Config of the forwarder.
type Config struct {
	config.Part
	// ConnectTo is the manager's socket.
	ConnectTo string `json:"connectTo"`
	// Socket that it listens on: unix://.
	Socket string `json:"socket"`
	// Router is the path of the network namespace between the clients of all nodes.
	Router string `json:"router,omitempty"`
	// Link is the type of the clients' interfaces around this router.
	Link dataplane.Link `json:"link,omitempty"`
	// TunnelIP in the place of Router: clients are connected by veth pairs with the router that their endpoint passes,
	// and to endpoints of other nodes through VXLANs from this address.
	TunnelIP string `json:"tunnelIp,omitempty"`
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
	connectTo, err := config.URL("connectTo", configuration.ConnectTo)
	if err != nil {
		return err
	}
	socket, err := config.URL("socket", configuration.Socket)
	if err != nil {
		return err
	}
	wires, tunnels, err := configuration.dataPlane()
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
				kernel.MECHANISM: newKernelServer(wires),
				vxlan.MECHANISM:  tunnels,
				// Between endpoints. One router connects them already; several are not connected.
				memif.MECHANISM: null.NewServer(),
			}),
			connect.NewServer(client.NewClient(ctx,
				client.WithoutRefresh(),
				client.WithName(configuration.Name),
				client.WithDialOptions(dial...),
				client.WithDialTimeout(configuration.DialLimit()),
				client.WithAdditionalFunctionality(
					cleanup.NewClient(ctx),
					mechanismtranslation.NewClient(),
					newPreferenceClient(),
					vni.NewClient(net.ParseIP(configuration.TunnelIP)),
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
	// In a cluster, manager and registry may start later.
	for {
		_, err := endpoints.Register(ctx, registration.Clone())
		if err == nil {
			break
		}
		log.FromContext(ctx).Warnf("register %s: %v", configuration.Name, err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("register %s: %w", configuration.Name, err)
		case <-time.After(registrationRetry):
		}
	}
	if err := process.Report(map[string]string{
		"socket": filepath.Clean(socket.Path), "link": string(configuration.Link),
	}); err != nil {
		return err
	}
	return part.Wait(ctx, failed)
}

// dataPlane is what makes the interfaces of clients, and the server for forwarders of other nodes.
func (c *Config) dataPlane() (wires, networkservice.NetworkServiceServer, error) {
	if c.TunnelIP == "" {
		router, err := dataplane.OpenNetns(c.Router)
		if err != nil {
			return nil, nil, err
		}
		plane, err := dataplane.New(router, c.Link)
		return oneRouter{plane}, null.NewServer(), err
	}
	if c.Router != "" || c.Link != "" {
		return nil, nil, errors.New("tunnelIp: router and link cannot be set beside it")
	}
	local := net.ParseIP(c.TunnelIP).To4()
	if local == nil {
		return nil, nil, fmt.Errorf("tunnelIp: %q is no IPv4 address", c.TunnelIP)
	}
	tunnels, err := newTunnelServer(local)
	return &endpointRouters{local: local}, tunnels, err
}
