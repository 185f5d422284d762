package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"github.com/networkservicemesh/sdk/pkg/tools/postpone"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// Jumbo frames, as the vL3 network starts with, where the connection names no MTU.
const defaultMTU = 9000

// kernelServer makes the interface of a connection in the client's network namespace.
type kernelServer struct {
	wires wires
}

// wires connect clients: with the router of all nodes, or with the one that the endpoint has passed.
type wires interface {
	attach(ctx context.Context, client *dataplane.Netns, wanted *dataplane.Interface) error
	// The client's namespace may be gone, and open fail.
	detach(open func() (*dataplane.Netns, error), wanted *dataplane.Interface) error
}

func newKernelServer(wires wires) networkservice.NetworkServiceServer {
	return &kernelServer{wires: wires}
}

// Request implements networkservice.NetworkServiceServer.
func (k *kernelServer) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	mechanism := kernel.ToMechanism(request.GetConnection().GetMechanism())
	name, namespace := mechanism.GetInterfaceName(), mechanism.GetNetNSURL()
	if len(name) == 0 || len(name) > kernel.LinuxIfMaxLength {
		return nil, fmt.Errorf("the interface name %q has not 1 to %d bytes", name, kernel.LinuxIfMaxLength)
	}
	closeLater := postpone.ContextWithValues(ctx)
	connection, err := next.Server(ctx).Request(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := k.attach(ctx, namespace, connection); err != nil {
		closeCtx, cancel := closeLater()
		defer cancel()
		_, closeErr := k.Close(closeCtx, connection)
		return nil, errors.Join(err, closeErr)
	}
	return connection, nil
}

// Close implements networkservice.NetworkServiceServer.
func (k *kernelServer) Close(ctx context.Context, connection *networkservice.Connection) (*empty.Empty, error) {
	wanted, err := wantedInterface(connection)
	if err == nil {
		namespace := kernel.ToMechanism(connection.GetMechanism()).GetNetNSURL()
		err = k.wires.detach(func() (*dataplane.Netns, error) { return openNetns(namespace) }, wanted)
	}
	if err != nil {
		log.FromContext(ctx).Errorf("remove the interface of %s: %v", connection.GetId(), err)
	}
	return next.Server(ctx).Close(ctx, connection)
}

func (k *kernelServer) attach(ctx context.Context, namespace string, connection *networkservice.Connection) error {
	wanted, err := wantedInterface(connection)
	if err != nil {
		return err
	}
	client, err := openNetns(namespace)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	return k.wires.attach(ctx, client, wanted)
}

func wantedInterface(connection *networkservice.Connection) (*dataplane.Interface, error) {
	context := connection.GetContext()
	ip := context.GetIpContext()
	wanted := &dataplane.Interface{
		// The client's id, which a restart of manager or forwarder does not change.
		Connection: connection.GetPath().GetPathSegments()[0].GetId(),
		Name:       kernel.ToMechanism(connection.GetMechanism()).GetInterfaceName(),
		MTU:        int(context.GetMTU()),
	}
	if wanted.MTU == 0 {
		wanted.MTU = defaultMTU
	}
	for _, list := range []struct {
		texts  []string
		into   *[]*net.IPNet
		routes bool
	}{
		{ip.GetSrcIpAddrs(), &wanted.Addresses, false},
		{ip.GetDstIpAddrs(), &wanted.Gateways, false},
		{prefixes(ip.GetSrcRoutes()), &wanted.Routes, true},
		{prefixes(ip.GetDstRoutes()), &wanted.RouterRoutes, true},
	} {
		for _, text := range list.texts {
			address, network, err := net.ParseCIDR(text)
			if err != nil {
				return nil, fmt.Errorf("connection %s: %w", connection.GetId(), err)
			}
			if list.routes {
				// The second endpoint calls the whole network 172.16.1.0/16.
				address = network.IP
			}
			*list.into = append(*list.into, &net.IPNet{IP: address, Mask: network.Mask})
		}
	}
	// A gateway is reached without one.
	routes := wanted.Routes[:0]
	for _, route := range wanted.Routes {
		if !isGateway(wanted.Gateways, route) {
			routes = append(routes, route)
		}
	}
	wanted.Routes = routes
	return wanted, nil
}

func isGateway(gateways []*net.IPNet, route *net.IPNet) bool {
	for _, gateway := range gateways {
		if gateway.String() == route.String() {
			return true
		}
	}
	return false
}

func prefixes(routes []*networkservice.Route) []string {
	var result []string
	for _, route := range routes {
		result = append(result, route.GetPrefix())
	}
	return result
}
