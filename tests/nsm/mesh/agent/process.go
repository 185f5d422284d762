package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// peerProcess is the process that opened a connection.
type peerProcess struct {
	credentials.CommonAuthInfo
	pid int32
}

// AuthType implements credentials.AuthInfo.
func (peerProcess) AuthType() string { return "SO_PEERCRED" }

// peerCredentials take the process of the peer from the kernel, and encrypt nothing: the sockets are local.
type peerCredentials struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (peerCredentials) ServerHandshake(connection net.Conn) (net.Conn, credentials.AuthInfo, error) {
	local, isUnix := connection.(*net.UnixConn)
	if !isUnix {
		return nil, nil, errors.New("the connection is no unix socket")
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("read the credentials of a peer: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(descriptor uintptr) {
		peer, failed = unix.GetsockoptUcred(int(descriptor), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return nil, nil, fmt.Errorf("read the credentials of a peer: %w", errors.Join(err, failed))
	}
	return connection, peerProcess{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		pid:            peer.Pid,
	}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

// Info implements credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: peerProcess{}.AuthType()}
}

// Clone implements credentials.TransportCredentials.
func (peerCredentials) Clone() credentials.TransportCredentials { return peerCredentials{} }

// OverrideServerName implements credentials.TransportCredentials.
func (peerCredentials) OverrideServerName(string) error { return nil }

// A kubelet's cgroup of a pod: kubepods/besteffort/podUID/CONTAINER.
var podCgroup = regexp.MustCompile(`/pod([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/`)

// podOfProcess is the UID of the pod that a process runs in.
func podOfProcess(pid int32) (string, error) {
	path := fmt.Sprintf("/proc/%d/cgroup", pid)
	groups, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("find the pod of process %d: %w", pid, err)
	}
	match := podCgroup.FindSubmatch(groups)
	if match == nil {
		return "", fmt.Errorf("process %d is in no pod: %s names none", pid, path)
	}
	return string(match[1]), nil
}
