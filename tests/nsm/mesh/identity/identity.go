// Package identity is a part's own SVID, and what it is used for: mTLS in both directions and tokens.
package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"

	"github.com/edwarnicke/grpcfd"
	"github.com/networkservicemesh/sdk/pkg/tools/spiffejwt"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"vl3-lb.io/tests/nsm/mesh/config"
)

// Identity follows the SVID of a part.
type Identity struct {
	source *workloadapi.X509Source
	// Tokens signs a token for the peer of a connection.
	Tokens token.GeneratorFunc
}

// Fetch waits for the part's first SVID.
func Fetch(ctx context.Context, part *config.Part) (*Identity, error) {
	source, err := workloadapi.NewX509Source(ctx,
		workloadapi.WithClientOptions(workloadapi.WithAddr(part.WorkloadAPI)))
	if err != nil {
		return nil, fmt.Errorf("fetch the SVID of %s from %s: %w", part.Name, part.WorkloadAPI, err)
	}
	return &Identity{
		source: source,
		Tokens: spiffejwt.TokenGeneratorFunc(source, part.TokenLifetime()),
	}, nil
}

// Close stops following the SVID.
func (i *Identity) Close() error { return i.source.Close() }

// ServerCredentials ask every client for a certificate of the trust bundle and take file descriptors.
func (i *Identity) ServerCredentials() credentials.TransportCredentials {
	server := tlsconfig.MTLSServerConfig(i.source, i.source, tlsconfig.AuthorizeAny())
	server.MinVersion = tls.VersionTLS12
	return grpcfd.TransportCredentials(credentials.NewTLS(server))
}

// PlainClientCredentials are mTLS without file descriptors.
func (i *Identity) PlainClientCredentials() credentials.TransportCredentials {
	client := tlsconfig.MTLSClientConfig(i.source, i.source, tlsconfig.AuthorizeAny())
	client.MinVersion = tls.VersionTLS12
	return credentials.NewTLS(client)
}

// DialOptions are those of the NSM programs: mTLS, tokens and file descriptors. The programs differ in whether dialing
// waits for the connection, up to the dial timeout (Block), and whether a call waits for it (Wait).
func (i *Identity) DialOptions(when ...When) []grpc.DialOption {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(grpcfd.TransportCredentials(i.PlainClientCredentials())),
		grpc.WithDefaultCallOptions(
			grpc.PerRPCCredentials(token.NewPerRPCCredentials(i.Tokens)),
			grpc.WaitForReady(slices.Contains(when, Wait)),
		),
		grpcfd.WithChainStreamInterceptor(),
		grpcfd.WithChainUnaryInterceptor(),
	}
	if slices.Contains(when, Block) {
		options = append(options, grpc.WithBlock())
	}
	return options
}

// When a client waits for its server.
type When int

// See DialOptions.
const (
	Block When = iota
	Wait
)
