/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the network layer of a packet, for XDP (struct xdp_md) and tc (struct __sk_buff). `is_skb` is a constant in every
 * call, so each program contains only its own branch.
 *
 * Headers are copied to the stack instead of read in place: a frame may span several buffers, and the copy fails at the end
 * of the packet.
 */
#ifndef VL3LB_PACKET_H
#define VL3LB_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "steer.h"

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

#endif
