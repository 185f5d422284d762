package authority

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// workloadAPI serves the SVIDs of an authority.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	authority *Authority
	identify  Identify
}

// Identify returns the SPIFFE ID of the workload that opened the connection of ctx.
type Identify func(ctx context.Context) (string, error)

// Serve gives the identity id to whoever connects to the unix socket at path, until ctx ends. SPIRE separates workloads
// apart by their process; here each has its own socket, since all processes of a test have one user.
func (a *Authority) Serve(ctx context.Context, path, id string) error {
	return a.ServeWorkloads(ctx, path, func(context.Context) (string, error) { return id, nil })
}

// ServeWorkloads serves a unix socket until ctx ends, and gives each workload the identity that identify returns.
func (a *Authority) ServeWorkloads(ctx context.Context, path string, identify Identify, options ...grpc.ServerOption) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("serve identities: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("serve identities: %w", err)
	}
	// Workloads may run as other users.
	if err := os.Chmod(path, 0o777); err != nil {
		return errors.Join(fmt.Errorf("serve identities: %w", err), listener.Close())
	}
	server := grpc.NewServer(options...)
	workload.RegisterSpiffeWorkloadAPIServer(server, &workloadAPI{authority: a, identify: identify})
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	go func() { _ = server.Serve(listener) }()
	return nil
}

// FetchX509SVID implements the Workload API: the SVID now, and again whenever it changes.
func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	return w.stream(stream.Context(), func(svid *SVID, bundle []byte) error {
		return stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId:    svid.ID,
			X509Svid:    svid.Certificate,
			X509SvidKey: svid.PrivateKey,
			Bundle:      bundle,
		}}})
	})
}

// FetchX509Bundles implements the Workload API: the roots alone.
func (w *workloadAPI) FetchX509Bundles(_ *workload.X509BundlesRequest, stream workload.SpiffeWorkloadAPI_FetchX509BundlesServer) error {
	return w.stream(stream.Context(), func(_ *SVID, bundle []byte) error {
		return stream.Send(&workload.X509BundlesResponse{
			Bundles: map[string][]byte{"spiffe://" + TrustDomain: bundle},
		})
	})
}

func (w *workloadAPI) stream(ctx context.Context, send func(*SVID, []byte) error) error {
	// The header keeps requests that a workload was tricked into away (SPIFFE Workload Endpoint, section 5).
	header, _ := metadata.FromIncomingContext(ctx)
	if values := header.Get("workload.spiffe.io"); len(values) != 1 || values[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	id, err := w.identify(ctx)
	if err != nil {
		return status.Errorf(codes.PermissionDenied, "no identity issued: %v", err)
	}
	for {
		svid, bundle, rotated, err := w.authority.Current(id)
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		if err := send(svid, bundle); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-rotated:
		case <-time.After(time.Until(svid.NotAfter) - w.authority.ttl/2 + time.Millisecond):
		}
	}
}
