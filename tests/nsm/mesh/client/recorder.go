package client

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"vl3-lb.io/tests/nsm/mesh/part"
)

// recorder is the element of the chain that reports each answer: to the first request, to refreshes and to those of
// healing.
type recorder struct {
	process *part.Process

	mutex sync.Mutex
	state state
	ready bool
}

type state struct {
	// Requests that were answered, and closes.
	Requests uint64 `json:"requests"`
	Closes   uint64 `json:"closes"`
	// Reselects among the requests.
	Reselects uint64 `json:"reselects"`
	// Connections by id, as protobuf's JSON, without tokens.
	Connections map[string]json.RawMessage `json:"connections"`
}

func newRecorder(process *part.Process) *recorder {
	return &recorder{process: process, state: state{Connections: make(map[string]json.RawMessage)}}
}

// connected makes the client ready: all its connections are there.
func (r *recorder) connected() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.ready = true
	r.report()
}

// Request implements networkservice.NetworkServiceClient.
func (r *recorder) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*networkservice.Connection, error) {
	reselect := request.GetConnection().GetState() == networkservice.State_RESELECT_REQUESTED
	connection, err := next.Client(ctx).Request(ctx, request, options...)
	if err != nil {
		return nil, err
	}
	shown := connection.Clone()
	for _, segment := range shown.GetPath().GetPathSegments() {
		segment.Token = ""
	}
	encoded, encodeErr := protojson.MarshalOptions{UseProtoNames: true}.Marshal(shown)
	if encodeErr != nil {
		logrus.Errorf("encode the connection %s: %v", connection.GetId(), encodeErr)
		return connection, nil
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.state.Requests++
	if reselect {
		r.state.Reselects++
	}
	r.state.Connections[connection.GetId()] = encoded
	r.report()
	return connection, nil
}

// Close implements networkservice.NetworkServiceClient.
func (r *recorder) Close(ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption) (*empty.Empty, error) {
	answer, err := next.Client(ctx).Close(ctx, connection, options...)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.state.Closes++
	delete(r.state.Connections, connection.GetId())
	r.report()
	return answer, err
}

func (r *recorder) report() {
	if !r.ready {
		return
	}
	if err := r.process.Report(r.state); err != nil {
		logrus.Error(err)
	}
}
