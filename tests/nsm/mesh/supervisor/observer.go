package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/identity"
)

const observationTimeout = 5 * time.Second

// showConnections answers with all connections of a node's manager as a client of it sees them, without tokens.
func (m *mesh) showConnections(request *http.Request) (any, error) {
	node, err := strconv.Atoi(request.PathValue("node"))
	if err != nil || node < 0 || node >= m.nodes {
		return nil, fmt.Errorf("node: %q, there are %d nodes", request.PathValue("node"), m.nodes)
	}
	workloadAPI, err := m.identity(systemNamespace, "observer")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(request.Context(), observationTimeout)
	defer cancel()
	own, err := identity.Fetch(ctx, &config.Part{Name: "observer", WorkloadAPI: workloadAPI})
	if err != nil {
		return nil, err
	}
	defer func() { _ = own.Close() }()
	connection, err := grpc.DialContext(ctx, m.managerSocket(node), own.DialOptions(identity.Wait)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the manager of node %d: %w", node, err)
	}
	defer func() { _ = connection.Close() }()
	stream, err := networkservice.NewMonitorConnectionClient(connection).MonitorConnections(ctx,
		&networkservice.MonitorScopeSelector{})
	if err != nil {
		return nil, fmt.Errorf("monitor the manager of node %d: %w", node, err)
	}
	event, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("monitor the manager of node %d: %w", node, err)
	}
	connections := make([]json.RawMessage, 0, len(event.GetConnections()))
	for _, shown := range event.GetConnections() {
		for _, segment := range shown.GetPath().GetPathSegments() {
			segment.Token = ""
		}
		encoded, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(shown)
		if err != nil {
			return nil, fmt.Errorf("encode the connection %s: %w", shown.GetId(), err)
		}
		connections = append(connections, encoded)
	}
	return connections, nil
}
