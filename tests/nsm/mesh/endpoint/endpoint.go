// Package endpoint is the endpoint of a vL3 network: the chain of cmd-nse-vl3-vpp without VPP.
package endpoint

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/edwarnicke/genericsync"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"
	"github.com/networkservicemesh/sdk/pkg/ipam/strictvl3ipam"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/dnscontext/vl3dns"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/ipcontext/vl3"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/mtu/vl3mtu"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	registryclientinfo "github.com/networkservicemesh/sdk/pkg/registry/common/clientinfo"
	registrysendfd "github.com/networkservicemesh/sdk/pkg/registry/common/sendfd"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/dataplane"
	"vl3-lb.io/tests/nsm/mesh/identity"
	"vl3-lb.io/tests/nsm/mesh/part"
	"vl3-lb.io/tests/nsm/mesh/registry"
)

// Config of the endpoint.
type Config struct {
	config.Part
	// ConnectTo is the manager's socket.
	ConnectTo string `json:"connectTo"`
	// Socket that it listens on: unix://.
	Socket string `json:"socket"`
	// Service is the name of the network service.
	Service string `json:"service"`
	// RegisterService makes the service known. The policies let only one identity do that; where there are several
	// endpoints, it is the first.
	RegisterService bool `json:"registerService"`
	// PrefixServers give its prefixes, one for each address family: tcp://.
	PrefixServers []string `json:"prefixServers"`
	// Router is the path of the network namespace between the clients. Default: a namespace of its own, which it passes
	// to the forwarder.
	Router string `json:"router,omitempty"`
	// DNSTemplates make the names of clients. Default: podName.NETWORKSERVICE.
	DNSTemplates []string `json:"dnsTemplates,omitempty"`
	// RequestTimeout for its own connections. Default: 15 s.
	RequestTimeout config.Duration `json:"requestTimeout,omitempty"`
}

// The default of cmd-nse-vl3-vpp.
const dnsTemplate = `{{ index .Labels "podName" }}.{{ .NetworkService }}.`

type running struct {
	Config
	connectTo  *url.URL
	own        *identity.Identity
	dial       []grpc.DialOption
	ipams      []*vl3.IPAM
	dnsConfigs genericsync.Map[string, []*networkservice.DNSConfig]
	// The DNS server's address, once the endpoint has one.
	dnsAddress chan net.IP
}

// Run serves until the process is asked to end.
func Run(text string) error {
	endpoint := running{dnsAddress: make(chan net.IP, 1)}
	if err := config.Read(text, &endpoint.Config); err != nil {
		return err
	}
	process, ctx, cancel, err := part.Start(endpoint.LogLevel)
	if err != nil {
		return err
	}
	defer cancel()
	if endpoint.connectTo, err = config.URL("connectTo", endpoint.ConnectTo); err != nil {
		return err
	}
	socket, err := config.URL("socket", endpoint.Socket)
	if err != nil {
		return err
	}
	var router *dataplane.Netns
	if endpoint.Router != "" {
		router, err = dataplane.OpenNetns(endpoint.Router)
	} else {
		router, err = dataplane.NewRouter()
	}
	if err != nil {
		return err
	}
	if endpoint.own, err = identity.Fetch(ctx, &endpoint.Part); err != nil {
		return err
	}
	endpoint.dial = endpoint.own.DialOptions(identity.Wait)

	// Its own life goes on while it closes what it opened.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	prefixes, err := endpoint.followPrefixes(life, router)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	if err := part.Serve(life, socket, endpoint.server(life, router), failed); err != nil {
		return err
	}
	if endpoint.RegisterService {
		if err := endpoint.registerService(ctx, life); err != nil {
			return err
		}
	}
	registration, unregister, err := endpoint.register(ctx, life, socket)
	if err != nil {
		return err
	}
	defer unregister()
	dnsAddress, closeOwn, err := endpoint.connectOwnKernel(ctx, life)
	if err != nil {
		return err
	}
	defer closeOwn()
	endpoint.dnsAddress <- dnsAddress
	closePeers, err := endpoint.connectPeers(ctx, life, registration, dnsAddress)
	if err != nil {
		return err
	}
	defer closePeers()
	if err := process.Report(map[string]any{
		"service": endpoint.Service, "prefixes": prefixes, "dns": dnsAddress.String(),
	}); err != nil {
		return err
	}
	return part.Wait(ctx, failed)
}

// server has the chain of cmd-nse-vl3-vpp, with its order.
func (e *running) server(ctx context.Context, router *dataplane.Netns) *grpc.Server {
	templates := e.DNSTemplates
	if len(templates) == 0 {
		templates = []string{dnsTemplate}
	}
	server := endpoint.NewServer(ctx, e.own.Tokens,
		endpoint.WithName(e.Name),
		endpoint.WithAuthorizeServer(authorize.NewServer()),
		endpoint.WithAdditionalFunctionality(
			vl3dns.NewServer(ctx, e.dnsAddress,
				vl3dns.WithDomainSchemes(templates...),
				vl3dns.WithConfigs(&e.dnsConfigs)),
			vl3mtu.NewServer(),
			strictvl3ipam.NewServer(ctx, vl3.NewServer, e.ipams...),
			mechanisms.NewServer(map[string]networkservice.NetworkServiceServer{
				memif.MECHANISM: e.memifServer(router),
			}),
		),
	)
	listening := grpc.NewServer(grpc.Creds(e.own.ServerCredentials()))
	server.Register(listening)
	return listening
}

func (e *running) registerService(ctx, life context.Context) error {
	services := registryclient.NewNetworkServiceRegistryClient(life,
		registryclient.WithClientURL(e.connectTo),
		registryclient.WithDialOptions(e.dial...),
		registryclient.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(
			registryauthorize.WithPolicies(registry.ClientPolicies...))))
	if _, err := services.Register(ctx, &registryapi.NetworkService{Name: e.Service, Payload: payload.IP}); err != nil {
		return fmt.Errorf("register the network service %s: %w", e.Service, err)
	}
	return nil
}

// register makes the endpoint known, and returns what takes it back.
func (e *running) register(ctx, life context.Context, socket *url.URL) (*registryapi.NetworkServiceEndpoint, func(), error) {
	endpoints := e.endpoints(life)
	registration, err := endpoints.Register(ctx, &registryapi.NetworkServiceEndpoint{
		Name:                e.Name,
		NetworkServiceNames: []string{e.Service},
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{
			e.Service: {},
		},
		Url: socket.String(),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("register the endpoint %s: %w", e.Name, err)
	}
	return registration, func() {
		timed, cancel := context.WithTimeout(life, e.timeout())
		defer cancel()
		_, _ = endpoints.Unregister(timed, registration)
	}, nil
}

func (e *running) endpoints(ctx context.Context) registryapi.NetworkServiceEndpointRegistryClient {
	return registryclient.NewNetworkServiceEndpointRegistryClient(ctx,
		registryclient.WithClientURL(e.connectTo),
		registryclient.WithDialOptions(e.dial...),
		registryclient.WithNSEAdditionalFunctionality(
			registryclientinfo.NewNetworkServiceEndpointRegistryClient(),
			registrysendfd.NewNetworkServiceEndpointRegistryClient()),
		registryclient.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(
			registryauthorize.WithPolicies(registry.ClientPolicies...))))
}

func (e *running) timeout() time.Duration { return e.RequestTimeout.Value(15 * time.Second) }
