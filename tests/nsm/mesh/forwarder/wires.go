package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/memif"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/vxlan"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// oneRouter connects the clients of all nodes with one router: there is nothing between forwarders.
type oneRouter struct {
	plane *dataplane.Plane
}

func (o oneRouter) attach(_ context.Context, client *dataplane.Netns, wanted *dataplane.Interface) error {
	return o.plane.Attach(client, wanted)
}

func (o oneRouter) detach(_ func() (*dataplane.Netns, error), wanted *dataplane.Interface) error {
	return o.plane.Detach(wanted)
}

// endpointRouters connect a client with the router of its endpoint: directly on the endpoint's node, and through a
// VXLAN from another one.
type endpointRouters struct {
	local net.IP
	// One change at a time: two clients may ask for one name.
	mutex sync.Mutex
}

func (e *endpointRouters) attach(ctx context.Context, client *dataplane.Netns, wanted *dataplane.Interface) error {
	hop, err := nextHop(ctx)
	if err != nil {
		return err
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	switch hop.GetType() {
	case memif.MECHANISM:
		router, err := routerOf(hop)
		if err != nil {
			return err
		}
		defer func() { _ = router.Close() }()
		return dataplane.AttachLocal(client, router, wanted)
	case vxlan.MECHANISM:
		mechanism := vxlan.ToMechanism(hop)
		return dataplane.AttachRemote(client, wanted, &dataplane.Tunnel{
			VNI: mechanism.VNI(), Local: e.local, Remote: mechanism.DstIP(),
		})
	default:
		return fmt.Errorf("the mechanism towards the endpoint is %s", hop.GetType())
	}
}

func (e *endpointRouters) detach(open func() (*dataplane.Netns, error), wanted *dataplane.Interface) error {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	client, err := open()
	if err != nil {
		return errors.Join(err, dataplane.DetachRemote(wanted))
	}
	defer func() { _ = client.Close() }()
	return errors.Join(dataplane.DetachClient(client, wanted), dataplane.DetachRemote(wanted))
}
