// Package registry is the registry of network services and endpoints: the SDK's memory registry, put together as in
// cmd-registry-memory.
package registry

import (
	"time"

	"github.com/networkservicemesh/sdk/pkg/registry/chains/memory"
	"github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/identity"
	"vl3-lb.io/tests/nsm/mesh/part"
)

// Config of the registry.
type Config struct {
	config.Part
	ListenOn string `json:"listenOn"`
	// Expiration of a registration that is not refreshed. Default: one minute.
	Expiration config.Duration `json:"expiration,omitempty"`
}

// The policies of cmd-registry-memory and of the programs that register.
var (
	// ServerPolicies are those of whoever takes registrations: registry and manager.
	ServerPolicies = []string{"etc/nsm/opa/common/.*.rego", "etc/nsm/opa/registry/.*.rego", "etc/nsm/opa/server/.*.rego"}
	// ClientPolicies are those of whoever registers.
	ClientPolicies = []string{"etc/nsm/opa/common/.*.rego", "etc/nsm/opa/registry/.*.rego", "etc/nsm/opa/client/.*.rego"}
)

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
	listenOn, err := config.URL("listenOn", configuration.ListenOn)
	if err != nil {
		return err
	}
	own, err := identity.Fetch(ctx, &configuration.Part)
	if err != nil {
		return err
	}

	server := grpc.NewServer(grpc.Creds(own.ServerCredentials()))
	memory.NewServer(ctx, own.Tokens,
		memory.WithDefaultExpiration(configuration.Expiration.Value(time.Minute)),
		memory.WithDialOptions(own.DialOptions(identity.Block, identity.Wait)...),
		memory.WithAuthorizeNSRegistryServer(
			authorize.NewNetworkServiceRegistryServer(authorize.WithPolicies(ServerPolicies...))),
		memory.WithAuthorizeNSERegistryServer(
			authorize.NewNetworkServiceEndpointRegistryServer(authorize.WithPolicies(ServerPolicies...))),
		memory.WithAuthorizeNSRegistryClient(
			authorize.NewNetworkServiceRegistryClient(authorize.WithPolicies(ClientPolicies...))),
		memory.WithAuthorizeNSERegistryClient(
			authorize.NewNetworkServiceEndpointRegistryClient(authorize.WithPolicies(ClientPolicies...))),
	).Register(server)

	failed := make(chan error, 1)
	if err := part.Serve(ctx, listenOn, server, failed); err != nil {
		return err
	}
	if err := process.Report(map[string]string{"url": listenOn.String()}); err != nil {
		return err
	}
	return part.Wait(ctx, failed)
}
