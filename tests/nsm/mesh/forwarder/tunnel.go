package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/vxlan"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/vxlan/vni"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/chain"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"github.com/networkservicemesh/sdk/pkg/tools/postpone"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// tunnelServer connects a forwarder of another node with an endpoint of this one: it makes the end of the VXLAN in the
// endpoint's router, and lowers the connection's MTU to what fits through it.
type tunnelServer struct {
	local net.IP
	mtu   int
}

func newTunnelServer(local net.IP) (networkservice.NetworkServiceServer, error) {
	mtu, err := dataplane.TunnelMTU(local)
	if err != nil {
		return nil, fmt.Errorf("tunnelIp: %w", err)
	}
	return chain.NewNetworkServiceServer(vni.NewServer(local), &tunnelServer{local: local, mtu: mtu}), nil
}

// Request implements networkservice.NetworkServiceServer.
func (t *tunnelServer) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	if request.GetConnection().GetContext() == nil {
		request.GetConnection().Context = &networkservice.ConnectionContext{}
	}
	if context := request.GetConnection().GetContext(); context.MTU == 0 || context.MTU > uint32(t.mtu) {
		context.MTU = uint32(t.mtu)
	}
	closeLater := postpone.ContextWithValues(ctx)
	connection, err := next.Server(ctx).Request(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := t.attach(ctx, connection); err != nil {
		closeCtx, cancel := closeLater()
		defer cancel()
		_, closeErr := t.Close(closeCtx, connection)
		return nil, errors.Join(err, closeErr)
	}
	return connection, nil
}

// Close implements networkservice.NetworkServiceServer.
func (t *tunnelServer) Close(ctx context.Context, connection *networkservice.Connection) (*empty.Empty, error) {
	if err := t.detach(ctx, connection); err != nil {
		log.FromContext(ctx).Errorf("remove the tunnel of %s: %v", connection.GetId(), err)
	}
	return next.Server(ctx).Close(ctx, connection)
}

func (t *tunnelServer) attach(ctx context.Context, connection *networkservice.Connection) error {
	wanted, err := wantedInterface(connection)
	if err != nil {
		return err
	}
	mechanism := vxlan.ToMechanism(connection.GetMechanism())
	return t.withRouter(ctx, func(router *dataplane.Netns) error {
		return dataplane.AttachTunnel(router, wanted, &dataplane.Tunnel{
			VNI: mechanism.VNI(), Local: t.local, Remote: mechanism.SrcIP(),
		})
	})
}

func (t *tunnelServer) detach(ctx context.Context, connection *networkservice.Connection) error {
	wanted, err := wantedInterface(connection)
	if err != nil {
		return err
	}
	return t.withRouter(ctx, func(router *dataplane.Netns) error { return dataplane.DetachTunnel(router, wanted) })
}

func (t *tunnelServer) withRouter(ctx context.Context, work func(*dataplane.Netns) error) error {
	hop, err := nextHop(ctx)
	if err != nil {
		return err
	}
	router, err := routerOf(hop)
	if err != nil {
		return err
	}
	defer func() { _ = router.Close() }()
	return work(router)
}
