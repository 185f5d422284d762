/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Classifier: finds the worker that owns a packet, or passes the packet to the kernel. It serves XDP
 * (struct xdp_md) and tc (struct __sk_buff). `is_skb` is a constant in every call, so each program
 * contains only its own branch.
 *
 * Headers are copied to the stack instead of read in place: a frame may span several buffers, and the
 * copy fails at the end of the packet. Malformed packets are passed to the kernel.
 */
#ifndef VL3LB_CLASSIFY_H
#define VL3LB_CLASSIFY_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "shed.h"
#include "steer.h"

/* Result of the classifier: no worker owns the packet, it is passed to the kernel. */
#define VL3LB_NOT_OURS (-1)
/* Result of the classifier: the packet is the worker's, which sheds load. It is dropped and was counted. */
#define VL3LB_SHED (-2)

/* Maximum number of IPv6 extension headers; packets with more are passed to the kernel. */
#define VL3LB_EXTENSIONS 8

#define VL3LB_IPV4_DONT_FRAGMENT 0x4000
#define VL3LB_IPV4_MORE_FRAGMENTS 0x2000
#define VL3LB_IPV4_OFFSET 0x1fff
#define VL3LB_IPV6_MORE_FRAGMENTS 0x0001
#define VL3LB_IPV6_OFFSET 0xfff8

enum vl3lb_part {
	VL3LB_WHOLE,
	VL3LB_FIRST,	/* has the transport header */
	VL3LB_LATER,
};

/* The network layer of a packet. */
struct vl3lb_packet {
	struct vl3lb_address source;
	struct vl3lb_address destination;
	__u32 transport;	/* offset of the transport header */
	__u32 id;		/* fragments: identification, host order */
	__u8 version;
	__u8 protocol;
	__u8 part;
};

struct vl3lb_ports {
	__be16 source;
	__be16 destination;
};

static __always_inline long
vl3lb_load(void *ctx, const bool is_skb, __u32 offset, void *to, __u32 length)
{
	return is_skb ? bpf_skb_load_bytes(ctx, offset, to, length)
		      : bpf_xdp_load_bytes(ctx, offset, to, length);
}

static __always_inline void vl3lb_map_ipv4(struct vl3lb_address *to, __be32 address)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = address;
}

static __always_inline bool
vl3lb_same_address(const struct vl3lb_address *a, const struct vl3lb_address *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
	       a->words[2] == b->words[2] && a->words[3] == b->words[3];
}

/* Whether packets of this protocol are balanced: they begin with two ports. */
static __always_inline bool vl3lb_has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Types of IPv4 options (RFC 791 section 3.1). */
#define VL3LB_OPTION_END 0
#define VL3LB_OPTION_NOP 1
#define VL3LB_OPTION_LSRR 131
#define VL3LB_OPTION_SSRR 137

/*
 * Whether the options between `offset` and `end` have a source route with addresses left, whose packet is
 * the kernel's to refuse or to send on, or cannot be read. dataplane/src/packet/option.rs judges the same.
 */
static __always_inline bool
vl3lb_has_source_route(void *ctx, const bool is_skb, __u32 offset, const __u32 end)
{
	for (int i = 0; i < 40; i++) {
		struct {
			__u8 type;
			__u8 length;
		} option = {};
		__u8 pointer;

		if (offset >= end)
			return false;
		if (vl3lb_load(ctx, is_skb, offset, &option.type, sizeof(option.type)))
			return true;
		if (option.type == VL3LB_OPTION_END)
			return false;
		if (option.type == VL3LB_OPTION_NOP) {
			offset += 1;
			continue;
		}
		if (offset + sizeof(option) > end ||
		    vl3lb_load(ctx, is_skb, offset, &option, sizeof(option)))
			return true;
		if (option.length < sizeof(option) || offset + option.length > end)
			return true;
		if (option.type == VL3LB_OPTION_LSRR || option.type == VL3LB_OPTION_SSRR) {
			if (option.length < 3 || vl3lb_load(ctx, is_skb, offset + 2, &pointer, sizeof(pointer)))
				return true;
			if (pointer <= option.length)
				return true;
		}
		offset += option.length;
	}
	return false;
}

/*
 * Global functions, which the verifier looks at by themselves. In the classifier it would look at all that follows once
 * more for each number of options, which without CAP_PERFMON is more than it takes.
 */
__attribute__((noinline)) int
vl3lb_has_source_route_xdp(struct xdp_md *frame, __u32 offset, __u32 end)
{
	return vl3lb_has_source_route(frame, false, offset, end);
}

__attribute__((noinline)) int
vl3lb_has_source_route_skb(struct __sk_buff *packet, __u32 offset, __u32 end)
{
	return vl3lb_has_source_route(packet, true, offset, end);
}

static __always_inline long
vl3lb_read_ipv4(void *ctx, const bool is_skb, __u32 offset, struct vl3lb_packet *packet)
{
	struct iphdr ip;
	__u16 fragment;

	if (vl3lb_load(ctx, is_skb, offset, &ip, sizeof(ip)))
		return -1;
	if (ip.version != 4 || ip.ihl < 5)
		return -1;
	fragment = bpf_ntohs(ip.frag_off);
	vl3lb_map_ipv4(&packet->source, ip.saddr);
	vl3lb_map_ipv4(&packet->destination, ip.daddr);
	packet->transport = offset + ip.ihl * 4;
	packet->id = bpf_ntohs(ip.id);
	packet->version = 4;
	packet->protocol = ip.protocol;
	if (fragment & VL3LB_IPV4_OFFSET)
		packet->part = VL3LB_LATER;
	else if (fragment & VL3LB_IPV4_MORE_FRAGMENTS)
		packet->part = VL3LB_FIRST;
	else
		packet->part = VL3LB_WHOLE;
	return 0;
}

/*
 * Walks the extension headers to the transport header (RFC 8200 section 4). In a fragment, the
 * transport header must follow the fragment header directly: only this is visible in later fragments
 * as well, and all fragments of a datagram must get the same result.
 */
static __always_inline long
vl3lb_walk_extensions(void *ctx, const bool is_skb, __u32 offset, __u8 next, struct vl3lb_packet *packet)
{
	for (int i = 0; i <= VL3LB_EXTENSIONS; i++) {
		struct {
			__u8 next;
			__u8 length;	/* in units of 8 bytes, without the first 8 bytes */
			__u8 type;
			__u8 segments_left;
			__be32 id;
		} extension;

		if (vl3lb_has_ports(next) || next == IPPROTO_ICMPV6) {
			packet->transport = offset;
			packet->protocol = next;
			return 0;
		}
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_FRAGMENT)
			return -1;
		if (vl3lb_load(ctx, is_skb, offset, &extension, sizeof(extension)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			__u16 fragment = (__u16)extension.type << 8 | extension.segments_left;

			packet->id = bpf_ntohl(extension.id);
			if (fragment & VL3LB_IPV6_OFFSET)
				packet->part = VL3LB_LATER;
			else if (fragment & VL3LB_IPV6_MORE_FRAGMENTS)
				packet->part = VL3LB_FIRST;
			offset += 8;
			if (packet->part != VL3LB_WHOLE) {
				packet->transport = offset;
				packet->protocol = extension.next;
				return 0;
			}
		} else {
			/* The destination is not final: the kernel forwards or rejects the packet. */
			if (next == IPPROTO_ROUTING && extension.segments_left)
				return -1;
			offset += 8 + (__u32)extension.length * 8;
		}
		next = extension.next;
	}
	return -1;
}

static __always_inline long
vl3lb_read_ipv6(void *ctx, const bool is_skb, __u32 offset, struct vl3lb_packet *packet)
{
	struct ipv6hdr ip;

	if (vl3lb_load(ctx, is_skb, offset, &ip, sizeof(ip)))
		return -1;
	if (ip.version != 6)
		return -1;
	__builtin_memcpy(&packet->source, &ip.saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip.daddr, sizeof(packet->destination));
	packet->version = 6;
	packet->part = VL3LB_WHOLE;
	return vl3lb_walk_extensions(ctx, is_skb, offset + sizeof(ip), ip.nexthdr, packet);
}

static __always_inline long
vl3lb_read_ip(void *ctx, const bool is_skb, __u32 offset, __u8 version, struct vl3lb_packet *packet)
{
	return version == 4 ? vl3lb_read_ipv4(ctx, is_skb, offset, packet)
			    : vl3lb_read_ipv6(ctx, is_skb, offset, packet);
}

static __always_inline bool vl3lb_is_left_out(__u16 port)
{
	const struct vl3lb_port_set *ports;
	__u32 zero = 0;

	ports = bpf_map_lookup_elem(&left_out_ports, &zero);
	return ports && ports->words[port >> 6] >> (port & 63) & 1;
}

static __always_inline bool vl3lb_is_own_address(const struct vl3lb_address *address)
{
	return bpf_map_lookup_elem(&addresses, address) != NULL;
}

/* The ends of a flow, as a packet to the balancer has them or an ICMP error to it quotes them. */
struct vl3lb_ends {
	struct vl3lb_address own;
	struct vl3lb_address peer;
	__be16 own_port;
	__be16 peer_port;
	__u32 protocol;
};

/*
 * The worker that owns the flow between these ends, or VL3LB_NOT_OURS if the own one is neither a service nor a NAT
 * port. A global function, which the verifier looks at by itself: in the classifier it would look at the ways through
 * here once more for each way to the ports, which without CAP_PERFMON is more than it takes.
 */
__attribute__((noinline)) int vl3lb_flow_owner(const struct vl3lb_ends *ends)
{
	struct vl3lb_service_key key = {};
	const struct vl3lb_config *settings;
	__u32 zero = 0;
	__u16 number;

	settings = bpf_map_lookup_elem(&config, &zero);
	if (!settings || !ends)
		return VL3LB_NOT_OURS;
	number = bpf_ntohs(ends->own_port);
	if (vl3lb_is_nat_port(settings, number) && !vl3lb_is_left_out(number) &&
	    vl3lb_is_own_address(&ends->own))
		return vl3lb_nat_port_owner(settings, number);
	key.address = ends->own;
	key.port = ends->own_port;
	key.protocol = ends->protocol;
	if (bpf_map_lookup_elem(&services, &key))
		return vl3lb_reduce(vl3lb_owner_hash(settings, ends->peer.words, bpf_ntohs(ends->peer_port),
						     number, ends->protocol),
				    settings->workers);
	return VL3LB_NOT_OURS;
}

static __always_inline int
vl3lb_classify_transport(void *ctx, const bool is_skb, const struct vl3lb_packet *packet)
{
	struct vl3lb_ends ends = {
		.own = packet->destination,
		.peer = packet->source,
		.protocol = packet->protocol,
	};
	struct vl3lb_ports ports;

	if (vl3lb_load(ctx, is_skb, packet->transport, &ports, sizeof(ports)))
		return VL3LB_NOT_OURS;
	ends.own_port = ports.destination;
	ends.peer_port = ports.source;
	return vl3lb_flow_owner(&ends);
}

/*
 * The worker for the fragments of a datagram. Only the first fragment has ports, so the worker is
 * derived from source address, identification and protocol, as in dataplane/src/pipeline/slow_path/fragment/mod.rs.
 */
static __always_inline int
vl3lb_classify_fragment(void *ctx, const bool is_skb, const struct vl3lb_config *config,
			const struct vl3lb_packet *packet)
{
	struct vl3lb_fragment_key key = {
		.source = packet->source,
		.destination = packet->destination,
		.id = packet->id,
		.protocol = packet->protocol,
	};

	if (!vl3lb_is_own_address(&packet->destination))
		return VL3LB_NOT_OURS;
	if (packet->part == VL3LB_FIRST) {
		if (vl3lb_classify_transport(ctx, is_skb, packet) == VL3LB_NOT_OURS) {
			__u8 passed = 1;

			bpf_map_update_elem(&passed_fragments, &key, &passed, BPF_ANY);
			return VL3LB_NOT_OURS;
		}
		/* The sender reuses the identification of an earlier datagram that was passed. */
		bpf_map_delete_elem(&passed_fragments, &key);
	} else if (bpf_map_lookup_elem(&passed_fragments, &key)) {
		return VL3LB_NOT_OURS;
	}
	return vl3lb_reduce(vl3lb_owner_hash(config, packet->source.words, packet->id >> 16,
					     packet->id & 0xffff, packet->protocol),
			    config->workers);
}

static __always_inline bool vl3lb_is_icmp_error(__u8 version, __u8 type)
{
	/* Destination Unreachable, Time Exceeded, Parameter Problem (RFC 792). */
	if (version == 4)
		return type == 3 || type == 11 || type == 12;
	/* Destination Unreachable, Packet Too Big, Time Exceeded, Parameter Problem (RFC 4443). */
	return type >= 1 && type <= 4;
}

/* The worker for an ICMP error that quotes a packet sent by the balancer to a backend or client. */
static __always_inline int
vl3lb_classify_icmp(void *ctx, const bool is_skb, const struct vl3lb_packet *packet)
{
	struct vl3lb_packet quoted = {};
	struct vl3lb_ends ends = {};
	struct vl3lb_ports ports;
	__u8 type;

	if (vl3lb_load(ctx, is_skb, packet->transport, &type, sizeof(type)))
		return VL3LB_NOT_OURS;
	if (!vl3lb_is_icmp_error(packet->version, type))
		return VL3LB_NOT_OURS;
	if (vl3lb_read_ip(ctx, is_skb, packet->transport + 8, packet->version, &quoted))
		return VL3LB_NOT_OURS;
	if (!vl3lb_same_address(&quoted.source, &packet->destination) || quoted.part == VL3LB_LATER)
		return VL3LB_NOT_OURS;
	if (!vl3lb_has_ports(quoted.protocol))
		return VL3LB_NOT_OURS;
	if (vl3lb_load(ctx, is_skb, quoted.transport, &ports, sizeof(ports)))
		return VL3LB_NOT_OURS;
	ends.own = quoted.source;
	ends.peer = quoted.destination;
	ends.own_port = ports.source;
	ends.peer_port = ports.destination;
	ends.protocol = quoted.protocol;
	return vl3lb_flow_owner(&ends);
}

/* `owner`, or VL3LB_SHED if that sheds load and does not admit the packet. */
static __always_inline int
vl3lb_admit(void *ctx, const bool is_skb, const struct vl3lb_config *settings,
	    const struct vl3lb_packet *packet, int owner)
{
	struct vl3lb_shed_packet shed = {};
	struct vl3lb_shed_worker *worker;
	long failed;

	/* Fragments and ICMP messages open no flow here. */
	if (owner == VL3LB_NOT_OURS || packet->part != VL3LB_WHOLE ||
	    (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP))
		return owner;
	worker = bpf_map_lookup_elem(&shed_workers, &owner);
	if (!worker || !worker->active)
		return owner;
	if (packet->protocol == IPPROTO_TCP)
		failed = vl3lb_load(ctx, is_skb, packet->transport, &shed.head, 14);
	else
		failed = vl3lb_load(ctx, is_skb, packet->transport, &shed.head, 4);
	if (failed)
		return owner;
	if (vl3lb_is_nat_port(settings, bpf_ntohs(shed.head.destination))) {
		/* The port of a service is no flow's NAT port. */
		struct vl3lb_service_key key = {
			.address = packet->destination,
			.port = shed.head.destination,
			.protocol = packet->protocol,
		};

		shed.is_reply = !bpf_map_lookup_elem(&services, &key);
	}
	shed.source = packet->source;
	shed.owner = owner;
	shed.protocol = packet->protocol;
	return vl3lb_shed_knows(&shed) || vl3lb_shed_admits(&shed) ? owner : VL3LB_SHED;
}

static __always_inline int
vl3lb_classify_ip(void *ctx, const bool is_skb, const struct vl3lb_config *settings, __u32 offset,
		  __u8 version, struct vl3lb_packet *packet)
{
	if (vl3lb_read_ip(ctx, is_skb, offset, version, packet))
		return VL3LB_NOT_OURS;
	if (version == 4 && packet->transport != offset + sizeof(struct iphdr)) {
		offset += sizeof(struct iphdr);
		if (is_skb ? vl3lb_has_source_route_skb(ctx, offset, packet->transport)
			   : vl3lb_has_source_route_xdp(ctx, offset, packet->transport))
			return VL3LB_NOT_OURS;
	}
	if (vl3lb_has_ports(packet->protocol))
		return packet->part == VL3LB_WHOLE
			       ? vl3lb_classify_transport(ctx, is_skb, packet)
			       : vl3lb_classify_fragment(ctx, is_skb, settings, packet);
	if (packet->protocol == (version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6) && packet->part == VL3LB_WHOLE)
		return vl3lb_classify_icmp(ctx, is_skb, packet);
	return VL3LB_NOT_OURS;
}

/* The IP version of a frame without a link header, 0 if it is not IP. */
static __always_inline __u8 vl3lb_raw_version(void *ctx, const bool is_skb)
{
	__u8 first;

	if (vl3lb_load(ctx, is_skb, 0, &first, sizeof(first)))
		return 0;
	return first >> 4 == 4 || first >> 4 == 6 ? first >> 4 : 0;
}

/* The IP version of an Ethernet frame to the interface's MAC address, 0 for all other frames. */
static __always_inline __u8
vl3lb_ethernet_version(void *ctx, const bool is_skb, const struct vl3lb_config *settings)
{
	struct ethhdr ethernet;

	if (vl3lb_load(ctx, is_skb, 0, &ethernet, sizeof(ethernet)))
		return 0;
	for (int i = 0; i < ETH_ALEN; i++)
		if (ethernet.h_dest[i] != settings->own_mac[i])
			return 0;
	switch (ethernet.h_proto) {
	case bpf_htons(ETH_P_IP):
		return 4;
	case bpf_htons(ETH_P_IPV6):
		return 6;
	default:
		return 0;
	}
}

/* The worker that owns the frame, VL3LB_NOT_OURS or VL3LB_SHED. */
static __always_inline int vl3lb_classify(void *ctx, const bool is_skb)
{
	const __u32 offset = raw_ip ? 0 : ETH_HLEN;
	const struct vl3lb_config *settings;
	struct vl3lb_packet packet = {};
	int owner = VL3LB_NOT_OURS;
	__u32 zero = 0;
	__u8 version;

	settings = bpf_map_lookup_elem(&config, &zero);
	if (!settings)
		return VL3LB_NOT_OURS;
	version = raw_ip ? vl3lb_raw_version(ctx, is_skb)
			 : vl3lb_ethernet_version(ctx, is_skb, settings);
	if (version == 4)
		owner = vl3lb_classify_ip(ctx, is_skb, settings, offset, 4, &packet);
	else if (version == 6)
		owner = vl3lb_classify_ip(ctx, is_skb, settings, offset, 6, &packet);
	return vl3lb_admit(ctx, is_skb, settings, &packet, owner);
}

#endif
