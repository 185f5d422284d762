package forwarder

import (
	"context"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/vxlan"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"google.golang.org/grpc"
)

// preferenceClient asks for what the VPP forwarder asks for: memif of an endpoint on this node, VXLAN to another one. It
// remembers which of them it got.
type preferenceClient struct{}

func newPreferenceClient() networkservice.NetworkServiceClient { return preferenceClient{} }

// Request implements networkservice.NetworkServiceClient.
func (preferenceClient) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*networkservice.Connection, error) {
	request.MechanismPreferences = append(request.MechanismPreferences,
		&networkservice.Mechanism{Cls: cls.LOCAL, Type: memif.MECHANISM, Parameters: map[string]string{}},
		&networkservice.Mechanism{Cls: cls.REMOTE, Type: vxlan.MECHANISM, Parameters: map[string]string{}},
	)
	connection, err := next.Client(ctx).Request(ctx, request, options...)
	if err != nil {
		return nil, err
	}
	storeNextHop(ctx, connection.GetMechanism())
	return connection, nil
}

// Close implements networkservice.NetworkServiceClient.
func (preferenceClient) Close(ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption) (*empty.Empty, error) {
	return next.Client(ctx).Close(ctx, connection, options...)
}
