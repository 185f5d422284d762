// Package client is a client of the vL3 network: the chain of cmd-nsc.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	kernelmech "github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/clientinfo"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/excludedprefixes"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/heal"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/null"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/retry"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/upstreamrefresh"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/chain"
	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
	"github.com/networkservicemesh/sdk/pkg/tools/nsurl"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/identity"
	"vl3-lb.io/tests/nsm/mesh/part"
)

// Config of the client.
type Config struct {
	config.Part
	// ConnectTo is the manager's socket.
	ConnectTo string `json:"connectTo"`
	// NetworkServices to connect to, as in NSM_NETWORK_SERVICES: kernel://SERVICE/INTERFACE?LABEL=VALUE.
	NetworkServices []string `json:"networkServices"`
	// PodName becomes the label podName, and by it the DNS name. Default: Name.
	PodName string `json:"podName,omitempty"`
	// Resolver answers the pod's DNS queries and replaces its /etc/resolv.conf.
	Resolver bool `json:"resolver,omitempty"`
	// RequestTimeout of one attempt. Default: 15 s.
	RequestTimeout config.Duration `json:"requestTimeout,omitempty"`
	// WithoutLiveness leaves out the ping of the endpoint, so that each loss of the control plane makes it reselect.
	WithoutLiveness bool `json:"withoutLiveness,omitempty"`
	// SharedPrefixes lets several connections lead to one endpoint: cmd-nsc refuses a second one, whose addresses are
	// those of the first.
	SharedPrefixes bool `json:"sharedPrefixes,omitempty"`
	// MTU that it asks for, to lower that of the whole network.
	MTU uint32 `json:"mtu,omitempty"`
	// SourceAddresses that it claims, instead of those that the endpoint would give it.
	SourceAddresses []string `json:"sourceAddresses,omitempty"`
}

// Run stays connected until the process is asked to end, and then closes its connections.
func Run(text string) error {
	var configuration Config
	if err := config.Read(text, &configuration); err != nil {
		return err
	}
	process, ctx, cancel, err := part.Start(configuration.LogLevel)
	if err != nil {
		return err
	}
	defer cancel()
	connectTo, err := config.URL("connectTo", configuration.ConnectTo)
	if err != nil {
		return err
	}
	if configuration.PodName == "" {
		configuration.PodName = configuration.Name
	}
	// The chain reads it from there.
	if err := os.Setenv("POD_NAME", configuration.PodName); err != nil {
		return err
	}
	own, err := identity.Fetch(ctx, &configuration.Part)
	if err != nil {
		return err
	}
	// Its own life goes on while it closes what it opened.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	recorder := newRecorder(process)
	requester := &requester{
		configuration: &configuration,
		labels:        &labels{},
		connections:   make(map[string]*networkservice.Connection),
		mechanisms:    make(map[string][]*networkservice.Mechanism),
	}
	elements := []networkservice.NetworkServiceClient{recorder, requester.labels}
	if configuration.Resolver {
		elements = append(elements, newResolver(life))
	}
	requester.client = newChain(life, &configuration, connectTo, own, elements...)
	if requester.manager, err = grpc.DialContext(life, grpcutils.URLToTarget(connectTo), own.DialOptions(identity.Wait)...); err != nil {
		return fmt.Errorf("connect to the manager %s: %w", connectTo, err)
	}
	process.Handle("labels", func(arguments json.RawMessage) error { return requester.setLabels(ctx, arguments) })
	process.Handle("closeOther", func(arguments json.RawMessage) error { return requester.closeOther(ctx, arguments) })
	for index, service := range configuration.NetworkServices {
		if err := requester.connect(ctx, index, service); err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
	}
	recorder.connected()
	<-ctx.Done()
	requester.close(life)
	return nil
}

// newChain is that of cmd-nsc.
func newChain(ctx context.Context, configuration *Config, connectTo *url.URL, own *identity.Identity, elements ...networkservice.NetworkServiceClient) networkservice.NetworkServiceClient {
	healing := []heal.Option{
		heal.WithLivenessCheckInterval(time.Second),
		heal.WithLivenessCheckTimeout(time.Second),
	}
	if !configuration.WithoutLiveness {
		healing = append(healing, heal.WithLivenessCheck(answersPings))
	}
	exclusion := excludedprefixes.NewClient()
	if configuration.SharedPrefixes {
		exclusion = null.NewClient()
	}
	return retry.NewClient(
		client.NewClient(ctx,
			client.WithClientURL(connectTo),
			client.WithName(configuration.Name),
			client.WithAuthorizeClient(authorize.NewClient()),
			client.WithHealClient(heal.NewClient(ctx, healing...)),
			client.WithAdditionalFunctionality(append(elements,
				upstreamrefresh.NewClient(ctx),
				clientinfo.NewClient(),
				mechanisms.NewClient(map[string]networkservice.NetworkServiceClient{
					kernelmech.MECHANISM: chain.NewNetworkServiceClient(kernel.NewClient()),
				}),
				sendfd.NewClient(),
				exclusion,
			)...),
			client.WithDialTimeout(configuration.DialLimit()),
			client.WithDialOptions(own.DialOptions(identity.Wait)...),
		),
		retry.WithTryTimeout(configuration.timeout()),
	)
}

func (c *Config) timeout() time.Duration { return c.RequestTimeout.Value(15 * time.Second) }

// requester makes, changes and closes the client's connections.
type requester struct {
	configuration *Config
	client        networkservice.NetworkServiceClient
	labels        *labels
	manager       *grpc.ClientConn

	// One request at a time: commands come at any moment.
	mutex sync.Mutex
	// By id. The mechanisms of a request are those that a later reselection asks for.
	connections map[string]*networkservice.Connection
	mechanisms  map[string][]*networkservice.Mechanism
}

// connect asks for one connection, or takes over the one of a process before this: as cmd-nsc does.
func (r *requester) connect(ctx context.Context, index int, service string) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	parsed, err := url.Parse(service)
	if err != nil {
		return fmt.Errorf("networkServices: %w", err)
	}
	wanted := (*nsurl.NSURL)(parsed)
	id := fmt.Sprintf("%s-%d", r.configuration.Name, index)
	request := &networkservice.NetworkServiceRequest{
		Connection: &networkservice.Connection{
			Id:             id,
			NetworkService: wanted.NetworkService(),
			Labels:         wanted.Labels(),
			Context: &networkservice.ConnectionContext{
				MTU:       r.configuration.MTU,
				IpContext: &networkservice.IPContext{SrcIpAddrs: r.configuration.SourceAddresses},
			},
		},
		MechanismPreferences: []*networkservice.Mechanism{wanted.Mechanism()},
	}
	monitored, err := r.monitored(ctx, id)
	if err != nil {
		return err
	}
	for _, connection := range monitored {
		path := connection.GetPath()
		if path.GetIndex() == 1 && path.GetPathSegments()[0].GetId() == id &&
			connection.GetMechanism().GetType() == wanted.Mechanism().GetType() {
			connection.Path.Index = 0
			connection.Id = id
			request.Connection = connection
		}
	}
	connection, err := r.client.Request(ctx, request)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", service, err)
	}
	r.connections[id] = connection
	r.mechanisms[id] = request.MechanismPreferences
	return nil
}

// monitored are the manager's connections with a client's id in their path.
func (r *requester) monitored(ctx context.Context, id string) (map[string]*networkservice.Connection, error) {
	timed, cancel := context.WithTimeout(ctx, r.configuration.timeout())
	defer cancel()
	stream, err := networkservice.NewMonitorConnectionClient(r.manager).MonitorConnections(timed,
		&networkservice.MonitorScopeSelector{PathSegments: []*networkservice.PathSegment{{Id: id}}})
	if err != nil {
		return nil, fmt.Errorf("monitor the connection %s: %w", id, err)
	}
	event, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("monitor the connection %s: %w", id, err)
	}
	return event.GetConnections(), nil
}

// setLabels changes the labels of all connections.
func (r *requester) setLabels(ctx context.Context, arguments json.RawMessage) error {
	var changed map[string]string
	if err := json.Unmarshal(arguments, &changed); err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.labels.set(changed)
	for id, connection := range r.connections {
		answer, err := r.client.Request(ctx, &networkservice.NetworkServiceRequest{
			Connection:           connection.Clone(),
			MechanismPreferences: r.mechanisms[id],
		})
		if err != nil {
			return fmt.Errorf("request %s with other labels: %w", id, err)
		}
		r.connections[id] = answer
	}
	return nil
}

// closeOther closes the connection of another client, as seen by the manager: no policy forbids it.
func (r *requester) closeOther(ctx context.Context, arguments json.RawMessage) error {
	var id string
	if err := json.Unmarshal(arguments, &id); err != nil {
		return fmt.Errorf("closeOther: %w", err)
	}
	monitored, err := r.monitored(ctx, id)
	if err != nil {
		return err
	}
	for _, connection := range monitored {
		if connection.GetPath().GetPathSegments()[0].GetId() != id {
			continue
		}
		connection.Path.Index = 0
		connection.Id = id
		if _, err := networkservice.NewNetworkServiceClient(r.manager).Close(ctx, connection); err != nil {
			return fmt.Errorf("close %s: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("the manager has no connection of %s", id)
}

func (r *requester) close(ctx context.Context) {
	timed, cancel := context.WithTimeout(ctx, r.configuration.timeout())
	defer cancel()
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, connection := range r.connections {
		_, _ = r.client.Close(timed, connection)
	}
}
