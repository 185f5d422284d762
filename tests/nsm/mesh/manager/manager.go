// Package manager is the Network Service Manager of a node: the SDK's chain with the options of cmd-nsmgr.
package manager

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/edwarnicke/genericsync"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/nsmgr"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	authmonitor "github.com/networkservicemesh/sdk/pkg/tools/monitorconnection/authorize"
	"github.com/networkservicemesh/sdk/pkg/tools/opa"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/identity"
	"vl3-lb.io/tests/nsm/mesh/part"
	"vl3-lb.io/tests/nsm/mesh/registry"
)

// Config of the manager.
type Config struct {
	config.Part
	// NodeName becomes the label nodeName of all connections.
	NodeName string `json:"nodeName"`
	// Socket for the clients, endpoints and forwarders of this node: unix://.
	Socket string `json:"socket"`
	// PublicURL for managers and clients of other nodes: tcp://.
	PublicURL string `json:"publicUrl"`
	// Registry is its URL.
	Registry string `json:"registry"`
	// Expiration of a registration that is not refreshed. Default: one minute.
	Expiration config.Duration `json:"expiration,omitempty"`
	// RestrictMonitor lets clients monitor only their own connections, by the SDK's policy that is off by default.
	RestrictMonitor bool `json:"restrictMonitor,omitempty"`
}

// Run serves until the process is asked to end.
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
	socket, err := config.URL("socket", configuration.Socket)
	if err != nil {
		return err
	}
	public, err := config.URL("publicUrl", configuration.PublicURL)
	if err != nil {
		return err
	}
	registryURL, err := config.URL("registry", configuration.Registry)
	if err != nil {
		return err
	}
	if err := keepExcludedPrefixes(); err != nil {
		return err
	}
	// The chain reads it from there.
	if err := os.Setenv("NODE_NAME", configuration.NodeName); err != nil {
		return err
	}
	own, err := identity.Fetch(ctx, &configuration.Part)
	if err != nil {
		return err
	}

	owners := new(genericsync.Map[spiffeid.ID, *genericsync.Map[string, struct{}]])
	var monitorPolicies []authmonitor.Policy
	if configuration.RestrictMonitor {
		policies, err := opa.PoliciesByFileMask("etc/nsm/opa/monitor/.*.rego")
		if err != nil {
			return fmt.Errorf("read the policies of monitors: %w", err)
		}
		for _, policy := range policies {
			monitorPolicies = append(monitorPolicies, policy)
		}
	}
	chain := nsmgr.NewServer(ctx, own.Tokens,
		nsmgr.WithName(configuration.Name),
		nsmgr.WithURL(public.String()),
		nsmgr.WithAuthorizeServer(authorize.NewServer(authorize.WithSpiffeIDConnectionMap(owners))),
		nsmgr.WithAuthorizeMonitorConnectionServer(authmonitor.NewMonitorConnectionServer(
			authmonitor.WithPolicies(monitorPolicies...), authmonitor.WithSpiffeIDConnectionMap(owners))),
		nsmgr.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(
			registryauthorize.WithPolicies(registry.ServerPolicies...))),
		nsmgr.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(
			registryauthorize.WithPolicies(registry.ServerPolicies...))),
		nsmgr.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(
			registryauthorize.WithPolicies(registry.ClientPolicies...))),
		nsmgr.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(
			registryauthorize.WithPolicies(registry.ClientPolicies...))),
		nsmgr.WithDefaultExpiration(configuration.Expiration.Value(time.Minute)),
		nsmgr.WithDialTimeout(configuration.DialLimit()),
		nsmgr.WithForwarderServiceName("forwarder"),
		nsmgr.WithDialOptions(own.DialOptions(identity.Block)...),
		nsmgr.WithRegistry(registryURL),
	)

	streams := newStreams()
	accepted := newConnections(own.ServerCredentials())
	server := grpc.NewServer(grpc.Creds(accepted), grpc.ChainStreamInterceptor(streams.intercept))
	chain.Register(server)
	process.Handle("cut", func(arguments json.RawMessage) error {
		var how string
		if err := json.Unmarshal(arguments, &how); err != nil {
			return fmt.Errorf("cut: %w", err)
		}
		switch how {
		case "eof", "error":
			streams.end(how == "error")
		case "connections":
			accepted.close()
		default:
			return fmt.Errorf("cut: %q is none of eof, error, connections", how)
		}
		return nil
	})

	failed := make(chan error, 2)
	if err := part.Serve(ctx, socket, server, failed); err != nil {
		return err
	}
	if err := part.Serve(ctx, public, server, failed); err != nil {
		return err
	}
	if err := process.Report(map[string]string{
		"socket": socket.String(), "url": public.String(), "nodeName": configuration.NodeName,
	}); err != nil {
		return err
	}
	return part.Wait(ctx, failed)
}
