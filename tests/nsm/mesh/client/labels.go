package client

import (
	"context"
	"maps"
	"sync"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"google.golang.org/grpc"
)

// labels is the element of the chain that replaces the labels of all later requests, once it was told to: the start
// of the chain keeps those of the first request.
type labels struct {
	mutex   sync.Mutex
	changed map[string]string
}

func (l *labels) set(changed map[string]string) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.changed = changed
}

// Request implements networkservice.NetworkServiceClient.
func (l *labels) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*networkservice.Connection, error) {
	l.mutex.Lock()
	if l.changed != nil {
		request.GetConnection().Labels = maps.Clone(l.changed)
	}
	l.mutex.Unlock()
	return next.Client(ctx).Request(ctx, request, options...)
}

// Close implements networkservice.NetworkServiceClient.
func (l *labels) Close(ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption) (*empty.Empty, error) {
	return next.Client(ctx).Close(ctx, connection, options...)
}
