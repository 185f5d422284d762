package endpoint

import (
	"context"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/common"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/chain"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// memifServer is for the forwarder of this node. A router that the forwarder knows already is not passed.
func (e *running) memifServer(router *dataplane.Netns) networkservice.NetworkServiceServer {
	if e.Router != "" {
		return sendfd.NewServer()
	}
	return chain.NewNetworkServiceServer(sendfd.NewServer(), &routerServer{router})
}

// routerServer names the router to the forwarder, in the place of the namespace of a memif socket: sendfd passes it.
type routerServer struct {
	router *dataplane.Netns
}

// Request implements networkservice.NetworkServiceServer.
func (r *routerServer) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	if mechanism := request.GetConnection().GetMechanism(); mechanism != nil {
		if mechanism.Parameters == nil {
			mechanism.Parameters = make(map[string]string)
		}
		mechanism.Parameters[common.InodeURL] = "file://" + r.router.Path()
	}
	return next.Server(ctx).Request(ctx, request)
}

// Close implements networkservice.NetworkServiceServer.
func (r *routerServer) Close(ctx context.Context, connection *networkservice.Connection) (*empty.Empty, error) {
	return next.Server(ctx).Close(ctx, connection)
}
