/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients in the balancer's own network namespace: packets from an own address to a service, which the kernel sends out of
 * the loopback interface. They belong to the balancer, all others there are left alone.
 */
#ifndef VL3LB_LOCAL_H
#define VL3LB_LOCAL_H

#include "classify.h"

/* The socket for packets of local clients. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} local_sockets SEC(".maps");

/* Cookies of the raw sockets by which the workers send to local clients. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2048);
	__type(key, __u64);
	__type(value, __u8);
} local_stacks SEC(".maps");

/* Datagrams whose first fragment was the balancer's; their other fragments are, too. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct vl3lb_fragment_key);
	__type(value, __u8);
} local_fragments SEC(".maps");

static __always_inline bool vl3lb_is_sent_by_worker(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);

	return bpf_map_lookup_elem(&local_stacks, &cookie) != NULL;
}

/* Whether a packet with ports is sent to a service. */
static __always_inline bool
vl3lb_is_for_service(struct __sk_buff *skb, const struct vl3lb_packet *packet)
{
	struct vl3lb_service_key key = {
		.address = packet->destination,
		.protocol = packet->protocol,
	};
	struct vl3lb_ports ports;

	if (vl3lb_load(skb, true, packet->transport, &ports, sizeof(ports)))
		return false;
	key.port = ports.destination;
	return bpf_map_lookup_elem(&services, &key) != NULL;
}

/* Whether a packet that leaves by the loopback interface is a local client's to a service. */
static __always_inline bool vl3lb_is_local_request(struct __sk_buff *skb)
{
	struct vl3lb_fragment_key fragment = {};
	struct vl3lb_packet packet = {};
	long unread;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		unread = vl3lb_read_ipv4(skb, true, ETH_HLEN, &packet);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		unread = vl3lb_read_ipv6(skb, true, ETH_HLEN, &packet);
	else
		return false;
	/* The checksum of SCTP is left to the loopback interface, which has none. */
	if (unread || (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP))
		return false;
	if (!vl3lb_is_own_address(&packet.source))
		return false;
	fragment.source = packet.source;
	fragment.destination = packet.destination;
	fragment.id = packet.id;
	fragment.protocol = packet.protocol;
	if (packet.part == VL3LB_LATER)
		return bpf_map_lookup_elem(&local_fragments, &fragment) != NULL;
	/* The sender reuses the identification of an earlier datagram. */
	if (packet.part == VL3LB_FIRST)
		bpf_map_delete_elem(&local_fragments, &fragment);
	if (!vl3lb_is_for_service(skb, &packet))
		return false;
	/* A reply to a client whose own port is a service's, too. */
	if (vl3lb_is_sent_by_worker(skb))
		return false;
	if (packet.part == VL3LB_FIRST) {
		__u8 taken = 1;

		bpf_map_update_elem(&local_fragments, &fragment, &taken, BPF_ANY);
	}
	return true;
}

#endif
