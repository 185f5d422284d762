package client

import (
	"context"
	"net"
	"os"
	"time"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Echo requests of one check, as cmd-nsc sends.
const requestsPerCheck = 4

// answersPings reports whether the endpoint answers a ping at each of its addresses, as the liveness check of cmd-nsc.
func answersPings(ctx context.Context, connection *networkservice.Connection) bool {
	addresses := connection.GetContext().GetIpContext().GetDstIPNets()
	deadline, limited := ctx.Deadline()
	if !limited {
		deadline = time.Now().Add(time.Second)
	}
	share := time.Until(deadline) / time.Duration(max(len(addresses), 1))
	for _, address := range addresses {
		if !answersPing(ctx, address.IP, share) {
			return false
		}
	}
	return true
}

func answersPing(ctx context.Context, address net.IP, limit time.Duration) bool {
	network, protocol, request := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho)
	answer := icmp.Type(ipv4.ICMPTypeEchoReply)
	if address.To4() == nil {
		network, protocol, request, answer = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	socket, err := icmp.ListenPacket(network, "")
	if err != nil {
		log.FromContext(ctx).Errorf("open a socket for pings: %v", err)
		return false
	}
	defer func() { _ = socket.Close() }()
	id := os.Getpid() & 0xffff
	for sequence := 0; sequence < requestsPerCheck; sequence++ {
		message := icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: sequence}}
		encoded, err := message.Marshal(nil)
		if err != nil {
			return false
		}
		// Without a route this fails, and the next attempt may not.
		_, _ = socket.WriteTo(encoded, &net.IPAddr{IP: address})
		if awaitReply(socket, protocol, answer, id, address, time.Now().Add(limit/requestsPerCheck)) {
			return true
		}
	}
	return false
}

func awaitReply(socket *icmp.PacketConn, protocol int, wanted icmp.Type, id int, address net.IP, deadline time.Time) bool {
	if err := socket.SetReadDeadline(deadline); err != nil {
		return false
	}
	buffer := make([]byte, 1500)
	for {
		length, from, err := socket.ReadFrom(buffer)
		if err != nil {
			time.Sleep(time.Until(deadline))
			return false
		}
		message, err := icmp.ParseMessage(protocol, buffer[:length])
		if err != nil || message.Type != wanted || from.String() != address.String() {
			continue
		}
		if echo, matches := message.Body.(*icmp.Echo); matches && echo.ID == id {
			return true
		}
	}
}
