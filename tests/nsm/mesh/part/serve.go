package part

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
)

// Serve listens on a unix:// or tcp:// URL and serves until ctx ends. The socket exists when it returns; errors that
// come later end up in failed.
func Serve(ctx context.Context, address *url.URL, server *grpc.Server, failed chan<- error) error {
	network, target := "tcp", address.Host
	if address.Scheme == "unix" {
		network, target = "unix", address.Path
		// Of a process before this one, that was killed.
		if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("listen on %s: %w", address, err)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	listener, err := net.Listen(network, target)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	if network == "unix" {
		if err := os.Chmod(target, 0o777); err != nil {
			return fmt.Errorf("open %s to all users: %w", target, err)
		}
	}
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	go func() {
		if err := server.Serve(listener); err != nil && ctx.Err() == nil {
			failed <- fmt.Errorf("serve %s: %w", address, err)
		}
	}()
	return nil
}

// Wait returns nil when ctx ends, or the first error of a server.
func Wait(ctx context.Context, failed <-chan error) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}
