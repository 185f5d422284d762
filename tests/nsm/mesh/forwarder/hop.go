package forwarder

import (
	"context"
	"fmt"
	"net/url"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/common"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	"github.com/networkservicemesh/sdk/pkg/networkservice/utils/metadata"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

type nextHopKey struct{}

// storeNextHop remembers the mechanism towards the endpoint for the life of the connection: the server's elements of
// this forwarder see only the one towards the client.
func storeNextHop(ctx context.Context, mechanism *networkservice.Mechanism) {
	metadata.Map(ctx, true).Store(nextHopKey{}, mechanism.Clone())
}

func nextHop(ctx context.Context) (*networkservice.Mechanism, error) {
	stored, present := metadata.Map(ctx, true).Load(nextHopKey{})
	mechanism, valid := stored.(*networkservice.Mechanism)
	if !present || !valid {
		return nil, fmt.Errorf("the way to the endpoint is unknown")
	}
	return mechanism, nil
}

// routerOf opens the router that an endpoint of this node has passed, as one with VPP passes the namespace of a memif
// socket.
func routerOf(mechanism *networkservice.Mechanism) (*dataplane.Netns, error) {
	if mechanism.GetType() != memif.MECHANISM {
		return nil, fmt.Errorf("the mechanism towards the endpoint is %s, not %s", mechanism.GetType(), memif.MECHANISM)
	}
	return openNetns(mechanism.GetParameters()[common.InodeURL])
}

// openNetns opens a namespace that was passed: recvfd has replaced its inode by a path of this process.
func openNetns(text string) (*dataplane.Netns, error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Scheme != "file" {
		return nil, fmt.Errorf("the network namespace %q is no file:// URL", text)
	}
	return dataplane.OpenNetns(parsed.Path)
}
