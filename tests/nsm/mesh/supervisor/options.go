// Package supervisor runs the whole mesh: its networks, its authority, its parts as child processes, and the HTTP
// server that controls them.
package supervisor

import (
	"flag"
	"fmt"
	"net"
	"strings"
	"time"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// options of `mesh up`.
type options struct {
	folder          string
	service         string
	prefixes        []string
	nodes           int
	endpoints       int
	link            dataplane.Link
	tokenLifetime   time.Duration
	svidTTL         time.Duration
	expiration      time.Duration
	requestTimeout  time.Duration
	restrictMonitor bool
	workloadAPI     string
	logLevel        string
	untilEOF        bool
}

func parseOptions(arguments []string) (*options, error) {
	var parsed options
	var link, prefixes string
	flags := flag.NewFlagSet("mesh up", flag.ContinueOnError)
	flags.StringVar(&parsed.folder, "dir", "", "folder of sockets and logs; what an earlier mesh left there is removed")
	flags.StringVar(&parsed.service, "service", "vl3-lb", "name of the network service")
	flags.StringVar(&prefixes, "prefix", "172.16.0.0/16", "prefixes of the vL3 network, one for each address family, with commas")
	flags.IntVar(&parsed.nodes, "nodes", 1, "nodes, each with a manager and a forwarder")
	flags.IntVar(&parsed.endpoints, "endpoints", 1, "endpoints of the vL3 network, on the nodes in turn")
	flags.StringVar(&link, "link", string(dataplane.Veth), "type of the clients' interfaces: veth or tun")
	flags.DurationVar(&parsed.tokenLifetime, "token-lifetime", 10*time.Minute, "longest life of a token; connections refresh at a fifth of it")
	flags.DurationVar(&parsed.svidTTL, "svid-ttl", time.Hour, "life of an SVID; it is renewed at half of it")
	flags.DurationVar(&parsed.expiration, "expiration", time.Minute, "life of a registration that is not refreshed")
	flags.DurationVar(&parsed.requestTimeout, "request-timeout", 15*time.Second, "timeout of requests of endpoints and clients")
	flags.BoolVar(&parsed.restrictMonitor, "restrict-monitor", false, "clients may monitor only their own connections")
	flags.StringVar(&parsed.workloadAPI, "workload-api", "", "URL of a SPIFFE Workload API for all parts, instead of the own authority")
	flags.StringVar(&parsed.logLevel, "log-level", "info", "log level of the parts: error, warn, info, debug, trace")
	flags.BoolVar(&parsed.untilEOF, "until-eof", false, "end when stdin ends: when whoever started it is gone")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("mesh up takes no arguments, got %q", flags.Args())
	}
	parsed.link = dataplane.Link(link)
	parsed.prefixes = strings.Split(prefixes, ",")
	return &parsed, parsed.check()
}

func (o *options) check() error {
	if o.folder == "" {
		return fmt.Errorf("--dir is missing")
	}
	// The longest socket below it must fit into sockaddr_un.
	if len(o.folder) > 60 {
		return fmt.Errorf("--dir %s: at most 60 bytes, since sockets are below it", o.folder)
	}
	if o.nodes < 1 || o.nodes > 9 {
		return fmt.Errorf("--nodes %d: 1 to 9", o.nodes)
	}
	if o.endpoints < 0 || o.endpoints > 9 {
		return fmt.Errorf("--endpoints %d: 0 to 9", o.endpoints)
	}
	if o.link != dataplane.Veth && o.link != dataplane.Tun {
		return fmt.Errorf("--link %s: veth or tun", o.link)
	}
	for _, prefix := range o.prefixes {
		if _, _, err := net.ParseCIDR(prefix); err != nil {
			return fmt.Errorf("--prefix %s: %w", prefix, err)
		}
	}
	if o.workloadAPI != "" {
		if _, err := config.URL("--workload-api", o.workloadAPI); err != nil {
			return err
		}
	}
	return nil
}
