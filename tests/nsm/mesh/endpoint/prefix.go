package endpoint

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/networkservicemesh/api/pkg/api/ipam"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/ipcontext/vl3"
	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"google.golang.org/grpc"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

const prefixServerRetry = 200 * time.Millisecond

// followPrefixes waits for the first prefix of each server, and follows their changes from then on. The router
// answers pings to the first address of each prefix.
func (e *running) followPrefixes(ctx context.Context, router *dataplane.Netns) ([]string, error) {
	var prefixes []string
	for _, server := range e.PrefixServers {
		if _, err := config.URL("prefixServers", server); err != nil {
			return nil, err
		}
		pool := new(vl3.IPAM)
		first := make(chan string, 1)
		go e.followPrefix(ctx, router, server, pool, first)
		select {
		case prefix := <-first:
			prefixes = append(prefixes, prefix)
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a prefix of %s: %w", server, ctx.Err())
		}
		e.ipams = append(e.ipams, pool)
	}
	return prefixes, nil
}

func (e *running) followPrefix(ctx context.Context, router *dataplane.Netns, server string, pool *vl3.IPAM, first chan<- string) {
	var previous string
	for ctx.Err() == nil {
		err := e.askForPrefix(ctx, server, previous, func(response *ipam.PrefixResponse) error {
			if response.GetPrefix() == previous {
				return nil
			}
			if err := pool.Reset(response.GetPrefix(), response.GetExcludePrefixes()...); err != nil {
				return fmt.Errorf("use the prefix %s: %w", response.GetPrefix(), err)
			}
			if err := setSelfAddress(router, response.GetPrefix()); err != nil {
				return err
			}
			if previous == "" {
				first <- response.GetPrefix()
			}
			previous = response.GetPrefix()
			return nil
		})
		log.FromContext(ctx).Warnf("prefix server %s: %v", server, err)
		select {
		case <-ctx.Done():
		case <-time.After(prefixServerRetry):
		}
	}
}

func (e *running) askForPrefix(ctx context.Context, server, previous string, use func(*ipam.PrefixResponse) error) error {
	target, err := config.URL("prefixServers", server)
	if err != nil {
		return err
	}
	connection, err := grpc.DialContext(ctx, grpcutils.URLToTarget(target),
		grpc.WithTransportCredentials(e.own.PlainClientCredentials()))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = connection.Close() }()
	stream, err := ipam.NewIPAMClient(connection).ManagePrefixes(ctx, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("manage prefixes: %w", err)
	}
	if err := stream.Send(&ipam.PrefixRequest{Type: ipam.Type_ALLOCATE, Prefix: previous}); err != nil {
		return fmt.Errorf("ask for a prefix: %w", err)
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive a prefix: %w", err)
		}
		if err := use(response); err != nil {
			return err
		}
	}
}

// setSelfAddress gives the router the first address of a prefix.
func setSelfAddress(router *dataplane.Netns, prefix string) error {
	_, network, err := net.ParseCIDR(prefix)
	if err != nil {
		return fmt.Errorf("use the prefix: %w", err)
	}
	bits := len(network.IP) * 8
	return dataplane.SetSelfAddress(router, &net.IPNet{IP: network.IP, Mask: net.CIDRMask(bits, bits)}, true)
}
