package manager

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// streams are the open Find and MonitorConnections streams, to be ended while the manager goes on.
type streams struct {
	mutex sync.Mutex
	open  map[*openStream]struct{}
}

type openStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newStreams() *streams {
	return &streams{open: make(map[*openStream]struct{})}
}

func (s *openStream) Context() context.Context { return s.ctx }

// The reasons for which streams are ended.
var (
	errEndCleanly  = errors.New("to be ended cleanly")
	errEndFaultily = errors.New("to be ended with an error")
)

func (s *streams) intercept(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	open := &openStream{ServerStream: stream, ctx: ctx, cancel: cancel}
	s.mutex.Lock()
	s.open[open] = struct{}{}
	s.mutex.Unlock()
	err := handle(service, open)
	s.mutex.Lock()
	delete(s.open, open)
	s.mutex.Unlock()
	switch context.Cause(ctx) {
	case errEndCleanly:
		return nil
	case errEndFaultily:
		return status.Error(codes.Unavailable, "the stream was ended")
	}
	return err
}

// end ends all streams, cleanly (EOF at the client) or with status Unavailable.
func (s *streams) end(faultily bool) {
	cause := errEndCleanly
	if faultily {
		cause = errEndFaultily
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for stream := range s.open {
		stream.cancel(cause)
	}
}

// connections are the accepted ones, to be closed while the manager goes on.
type connections struct {
	credentials.TransportCredentials
	shared *acceptedConnections
}

type acceptedConnections struct {
	mutex sync.Mutex
	open  []net.Conn
}

func newConnections(server credentials.TransportCredentials) *connections {
	return &connections{TransportCredentials: server, shared: &acceptedConnections{}}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *connections) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err == nil {
		c.shared.mutex.Lock()
		c.shared.open = append(c.shared.open, secure)
		c.shared.mutex.Unlock()
	}
	return secure, info, err
}

// Clone implements credentials.TransportCredentials.
func (c *connections) Clone() credentials.TransportCredentials {
	return &connections{TransportCredentials: c.TransportCredentials.Clone(), shared: c.shared}
}

// close closes all that were accepted so far; most of them have ended before.
func (c *connections) close() {
	c.shared.mutex.Lock()
	defer c.shared.mutex.Unlock()
	for _, connection := range c.shared.open {
		_ = connection.Close()
	}
	c.shared.open = nil
}
