package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

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
	plane *dataplane.Plane
}

func newKernelServer(plane *dataplane.Plane) networkservice.NetworkServiceServer {
	return &kernelServer{plane: plane}
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
	if err := k.attach(namespace, connection); err != nil {
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
		err = k.plane.Detach(wanted)
	}
	if err != nil {
		log.FromContext(ctx).Errorf("remove the interface of %s: %v", connection.GetId(), err)
	}
	return next.Server(ctx).Close(ctx, connection)
}

// attach opens the namespace that the client passed: recvfd has replaced its inode by a path of this process.
func (k *kernelServer) attach(namespace string, connection *networkservice.Connection) error {
	wanted, err := wantedInterface(connection)
	if err != nil {
		return err
	}
	parsed, err := url.Parse(namespace)
	if err != nil || parsed.Scheme != "file" {
		return fmt.Errorf("the network namespace %q is no file:// URL", namespace)
	}
	client, err := dataplane.OpenNetns(parsed.Path)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	return k.plane.Attach(client, wanted)
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
