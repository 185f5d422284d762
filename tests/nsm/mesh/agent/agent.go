// Package agent gives the pods of Kubernetes nodes their identities: what the agents of SPIRE do, with the authority of
// the tests. It must see the processes of all pods, and knows a pod by the cgroup of the process that asks.
package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"vl3-lb.io/tests/nsm/mesh/authority"
	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/part"
)

// Config of the agent.
type Config struct {
	// Sockets are the paths of the Workload APIs, one for each node.
	Sockets []string `json:"sockets"`
	// SVIDTTL is the life of an SVID. Default: one hour.
	SVIDTTL config.Duration `json:"svidTtl,omitempty"`
	// APIServer of Kubernetes, which knows the pods.
	APIServer APIServer `json:"apiServer"`
	// LogLevel of messages on stderr. Default: info.
	LogLevel string `json:"logLevel,omitempty"`
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
	pods, err := newPods(&configuration.APIServer)
	if err != nil {
		return err
	}
	issuer, err := authority.New(configuration.SVIDTTL.Value(time.Hour))
	if err != nil {
		return err
	}
	identify := func(ctx context.Context) (string, error) {
		caller, known := peer.FromContext(ctx)
		if !known {
			return "", errors.New("the connection has no peer")
		}
		process, known := caller.AuthInfo.(peerProcess)
		if !known {
			return "", errors.New("the process of the workload is unknown")
		}
		uid, err := podOfProcess(process.pid)
		if err != nil {
			return "", err
		}
		pod, err := pods.find(ctx, uid)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("spiffe://%s/ns/%s/pod/%s", authority.TrustDomain, pod.Namespace, pod.Name), nil
	}
	for _, socket := range configuration.Sockets {
		if err := issuer.ServeWorkloads(ctx, socket, identify, grpc.Creds(peerCredentials{})); err != nil {
			return err
		}
	}
	if err := process.Report(map[string]any{"sockets": configuration.Sockets}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
