package endpoint

import (
	"context"
	"fmt"
	"net"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/clientinfo"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/recvfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/null"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/retry"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/upstreamrefresh"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/dnscontext/vl3dns"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/ipcontext/vl3"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/mtu/vl3mtu"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"google.golang.org/grpc"
)

// connectOwnKernel is the endpoint as a client of itself: the kernel interface that its DNS server listens on.
func (e *running) connectOwnKernel(ctx, life context.Context) (net.IP, func(), error) {
	own := retry.NewClient(client.NewClient(life,
		client.WithClientURL(e.connectTo),
		client.WithName(e.Name),
		client.WithAuthorizeClient(authorize.NewClient()),
		client.WithAdditionalFunctionality(
			upstreamrefresh.NewClient(life, upstreamrefresh.WithLocalNotifications()),
			vl3mtu.NewClient(),
			clientinfo.NewClient(),
			kernel.NewClient(kernel.WithInterfaceName("nsm-1")),
			sendfd.NewClient(),
		),
		client.WithDialTimeout(e.DialLimit()),
		client.WithDialOptions(e.dial...),
	))
	connection, err := own.Request(ctx, &networkservice.NetworkServiceRequest{
		Connection: &networkservice.Connection{
			Id:                         e.Name + "-kernel",
			NetworkServiceEndpointName: e.Name,
			NetworkService:             e.Service,
			Payload:                    payload.IP,
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("connect the endpoint %s to itself: %w", e.Name, err)
	}
	addresses := connection.GetContext().GetIpContext().GetSrcIPNets()
	if len(addresses) == 0 {
		return nil, nil, fmt.Errorf("connect the endpoint %s to itself: it got no address", e.Name)
	}
	return addresses[0].IP, e.closer(life, own, connection), nil
}

// connectPeers connects it to the endpoints of the network that are there before it, as cmd-nse-vl3-vpp does.
func (e *running) connectPeers(ctx, life context.Context, own *registryapi.NetworkServiceEndpoint, dns net.IP) (func(), error) {
	stream, err := e.endpoints(life).Find(ctx, &registryapi.NetworkServiceEndpointQuery{
		NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{e.Service}},
	})
	if err != nil {
		return nil, fmt.Errorf("find the other endpoints of %s: %w", e.Service, err)
	}
	functions := []networkservice.NetworkServiceClient{
		upstreamrefresh.NewClient(life, upstreamrefresh.WithLocalNotifications()),
		vl3mtu.NewClient(),
	}
	for _, pool := range e.ipams {
		functions = append(functions, vl3.NewClient(life, pool))
	}
	functions = append(functions, vl3dns.NewClient(dns, &e.dnsConfigs), memifClient{}, sendfd.NewClient(), recvfd.NewClient())
	peer := retry.NewClient(client.NewClient(life,
		client.WithClientURL(e.connectTo),
		client.WithName(e.Name),
		client.WithAdditionalFunctionality(functions...),
		client.WithHealClient(null.NewClient()),
		client.WithDialTimeout(e.DialLimit()),
		client.WithDialOptions(e.dial...),
	))
	var closers []func()
	for _, other := range registryapi.ReadNetworkServiceEndpointList(stream) {
		if other.Name == e.Name ||
			other.GetInitialRegistrationTime().AsTime().After(own.GetInitialRegistrationTime().AsTime()) {
			continue
		}
		timed, cancel := context.WithTimeout(ctx, e.timeout())
		connection, err := peer.Request(timed, &networkservice.NetworkServiceRequest{
			Connection: &networkservice.Connection{
				NetworkServiceEndpointName: other.Name,
				NetworkService:             e.Service,
				Payload:                    payload.IP,
			},
		})
		cancel()
		if err != nil {
			return nil, fmt.Errorf("connect the endpoint %s to %s: %w", e.Name, other.Name, err)
		}
		closers = append(closers, e.closer(life, peer, connection))
	}
	return func() {
		for _, closer := range closers {
			closer()
		}
	}, nil
}

func (e *running) closer(life context.Context, from networkservice.NetworkServiceClient, connection *networkservice.Connection) func() {
	return func() {
		timed, cancel := context.WithTimeout(life, e.timeout())
		defer cancel()
		_, _ = from.Close(timed, connection)
	}
}

// memifClient asks for memif, as VPP does.
type memifClient struct{}

// Request implements networkservice.NetworkServiceClient.
func (memifClient) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*networkservice.Connection, error) {
	request.MechanismPreferences = append(request.MechanismPreferences,
		&networkservice.Mechanism{Cls: cls.LOCAL, Type: memif.MECHANISM, Parameters: map[string]string{}})
	return next.Client(ctx).Request(ctx, request, options...)
}

// Close implements networkservice.NetworkServiceClient.
func (memifClient) Close(ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption) (*empty.Empty, error) {
	return next.Client(ctx).Close(ctx, connection, options...)
}
