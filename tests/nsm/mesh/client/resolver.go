package client

import (
	"context"

	"github.com/edwarnicke/genericsync"
	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/dnscontext"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/cache"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/checkmsg"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/dnsconfigs"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/fanout"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/next"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/noloop"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/searches"
)

// Where the resolver listens, as in cmd-nsc.
const resolverAddress = "127.0.0.1:53"

// newResolver is the DNS proxy of cmd-nsc and the element of the chain that leads the pod to it: it replaces
// /etc/resolv.conf, asks the servers of the connections and the pod's former ones, and keeps answers for their TTL.
func newResolver(ctx context.Context) networkservice.NetworkServiceClient {
	configs := new(genericsync.Map[string, []*networkservice.DNSConfig])
	handler := next.NewDNSHandler(
		checkmsg.NewDNSHandler(),
		dnsconfigs.NewDNSHandler(configs),
		searches.NewDNSHandler(),
		noloop.NewDNSHandler(),
		cache.NewDNSHandler(),
		fanout.NewDNSHandler(),
	)
	dnsutils.ListenAndServe(ctx, handler, resolverAddress)
	return dnscontext.NewClient(dnscontext.WithChainContext(ctx), dnscontext.WithDNSConfigsMap(configs))
}
