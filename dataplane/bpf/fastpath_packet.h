/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets of the fast path (fastpath.h): their headers on the stack, and what tc and XDP do differently with them.
 *
 *   tc	the kernel knows super-packets, and checksums that the sender left open: the helpers keep all of that right.
 *	Never by hand on a socket buffer.
 *   XDP	a frame is bytes. Checksums are changed by arithmetic (RFC 1624), which is right only if they are complete.
 *
 * `is_skb` is a constant in every call, as in packet.h.
 */
#ifndef VL3LB_FASTPATH_PACKET_H
#define VL3LB_FASTPATH_PACKET_H

#include <linux/tcp.h>
#include <linux/udp.h>

#include "classify.h"
#include "fastpath_maps.h"

/* Frames of XDP are shorter than 2 to the power of this. */
#define VL3LB_FAST_LENGTH_BITS 12

/* A packet without IP options and extension headers, copied to the stack. */
struct vl3lb_fast_head4 {
	__u8 zero[2];	/* aligns the IP header */
	struct ethhdr ethernet;
	struct iphdr ip;
	struct tcphdr transport;
};

struct vl3lb_fast_head6 {
	__u8 zero[2];
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct tcphdr transport;
};

/* What both families have. */
struct vl3lb_fast_packet {
	struct vl3lb_address source;
	struct vl3lb_address destination;
	__u32 headers;		/* length of IP and transport header */
	__u32 length;		/* of the IP packet */
	__u32 frame;		/* of the frame */
	__u8 protocol;
	__u8 hops;
};

static __always_inline __u16 vl3lb_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline bool vl3lb_is_header_sum_right(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += words[i];
	return vl3lb_fold(sum) == 0xffff;
}

/*
 * Whether the `length` bytes of a frame are in its first buffer, which may be a page. A driver may send back no other
 * frames (zero-copy: only the first buffer is copied). A global function, which the verifier looks at by itself: it tries
 * each length, since without CAP_PERFMON only constants may be added to a pointer into a packet.
 */
__attribute__((noinline)) int vl3lb_fast_is_linear(struct xdp_md *frame, __u32 length)
{
	void *end = (void *)(long)frame->data;

	if (length >> VL3LB_FAST_LENGTH_BITS)
		return 0;
#pragma unroll
	for (int bit = 0; bit < VL3LB_FAST_LENGTH_BITS; bit++)
		if (length & 1U << bit)
			asm volatile("%0 += %1" : "+r"(end) : "i"(1U << bit));
	return end <= (void *)(long)frame->data_end;
}

/* The length of a frame; 0 if it is one that XDP cannot send back. */
static __always_inline __u32 vl3lb_fast_length(void *ctx, const bool is_skb)
{
	__u32 length;

	if (is_skb)
		return ((struct __sk_buff *)ctx)->len;
	length = bpf_xdp_get_buff_len(ctx);
	return vl3lb_fast_is_linear(ctx, length) ? length : 0;
}

/* The EtherType of a frame; on a raw-IP link, of the packet. 0 if it has none. */
static __always_inline __be16 vl3lb_fast_type(void *ctx, const bool is_skb)
{
	const struct xdp_md *frame = ctx;
	const struct ethhdr *ethernet;

	if (is_skb)
		return ((struct __sk_buff *)ctx)->protocol;
	ethernet = (void *)(long)frame->data;
	if ((void *)(ethernet + 1) > (void *)(long)frame->data_end)
		return 0;
	return ethernet->h_proto;
}

/*
 * Copies the headers: a TCP header, or a UDP header where the packet is too short for one. In place where they are in one
 * piece, as nearly always, which saves a tenth of the program's time. `network_length` is a constant in every call.
 */
static __always_inline long
vl3lb_fast_copy(void *ctx, const bool is_skb, __u32 length, void *to, const __u32 network_length)
{
	const __u32 shorter = network_length + sizeof(struct udphdr);
	const __u32 longer = network_length + sizeof(struct tcphdr);
	const struct __sk_buff *skb = ctx;
	const struct xdp_md *frame = ctx;
	const __u16 *from = (void *)(long)(is_skb ? skb->data : frame->data);
	const void *end = (void *)(long)(is_skb ? skb->data_end : frame->data_end);
	__u16 *words = to;

	if ((const void *)from + longer <= end) {
#pragma unroll
		for (__u32 i = 0; i < longer / 2; i++)
			words[i] = from[i];
		return 0;
	}
	if (length >= longer)
		return vl3lb_load(ctx, is_skb, 0, to, longer);
	return vl3lb_load(ctx, is_skb, 0, to, shorter);
}

/*
 * The checksum of a transport header; of a UDP header, the copy has bytes behind it. Both places are read, and below
 * written: without CAP_PERFMON no place may be chosen by a variable.
 */
static __always_inline __u16
vl3lb_fast_checksum(const struct vl3lb_fast_packet *packet, const struct tcphdr *transport)
{
	const __u16 of_udp = ((const struct udphdr *)transport)->check;
	const __u16 of_tcp = transport->check;

	return packet->protocol == IPPROTO_UDP ? of_udp : of_tcp;
}

/*
 * Whether the transport checksum is the sum of the pseudo-header alone: partial, as a virtual link passes on what the
 * sender's kernel leaves to its hardware. XDP does not see it in another way, nor does the worker, which completes it
 * (dataplane/src/packet/rewrite.rs). A complete checksum has this value once in 65,536 packets, by chance.
 */
static __always_inline bool
vl3lb_fast_is_partial(const struct vl3lb_fast_packet *packet, __u32 ip_length, const struct tcphdr *transport)
{
	__u64 sum = bpf_htonl(packet->protocol + packet->length - ip_length);

	for (int i = 0; i < 4; i++)
		sum += (__u64)packet->source.words[i] + packet->destination.words[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	return vl3lb_fold(sum) == vl3lb_fast_checksum(packet, transport);
}

/* Changes the checksum of the transport header for the flow's addresses and ports, and writes the ports, in a socket
 * buffer. Returns a counter: taken, refused or lost. */
static __always_inline int
vl3lb_fast_translate_skb(struct __sk_buff *skb, const __u8 version, __u32 offset,
			 const struct vl3lb_fast_packet *packet, const struct tcphdr *transport, __u32 delta,
			 struct vl3lb_ports to)
{
	const bool is_udp = packet->protocol == IPPROTO_UDP;
	const __u32 sum = offset + (is_udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	const __u64 mangled = is_udp ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 before, after;

	__builtin_memcpy(&before, transport, sizeof(before));
	__builtin_memcpy(&after, &to, sizeof(after));
	if (bpf_l4_csum_replace(skb, sum, 0, delta, BPF_F_PSEUDO_HDR | mangled))
		return VL3LB_FAST_REFUSED;
	if (bpf_l4_csum_replace(skb, sum, before, after, sizeof(after) | mangled) ||
	    bpf_skb_store_bytes(skb, offset, &to, sizeof(to), 0))
		return VL3LB_FAST_LOST;
	/*
	 * A sum over the whole packet (CHECKSUM_COMPLETE) stays as it is over IPv6, where the transport checksum
	 * alone makes up for the addresses; the helper takes the change off once too often. Fails where there is none.
	 */
	if (version == 6)
		bpf_csum_update(skb, delta);
	return VL3LB_FAST_TAKEN;
}

/* The same in the copy of a frame's headers. UDP without a checksum keeps none (RFC 768). */
static __always_inline void
vl3lb_fast_translate_copy(const struct vl3lb_fast_packet *packet, struct tcphdr *transport, __u32 delta,
			  struct vl3lb_ports to)
{
	struct udphdr *udp = (struct udphdr *)transport;
	const bool is_udp = packet->protocol == IPPROTO_UDP;
	const __u16 before = vl3lb_fast_checksum(packet, transport);
	__u16 after;

	after = ~vl3lb_fold((__u16)~before + delta + (__u16)~transport->source + (__u16)~transport->dest +
			    to.source + to.destination);
	if (is_udp)
		after = !before ? 0 : after ? after : 0xffff;
	udp->check = is_udp ? after : udp->check;
	transport->check = is_udp ? transport->check : after;
	transport->source = to.source;
	transport->dest = to.destination;
}

/* Writes the copied headers back: of a socket buffer those before the transport header, of a frame all. */
static __always_inline long
vl3lb_fast_write(void *ctx, const bool is_skb, __u8 protocol, const void *from, const __u32 network_length)
{
	if (is_skb)
		return bpf_skb_store_bytes(ctx, 0, from, network_length, 0);
	if (protocol == IPPROTO_UDP)
		return bpf_xdp_store_bytes(ctx, 0, (void *)from, network_length + sizeof(struct udphdr));
	return bpf_xdp_store_bytes(ctx, 0, (void *)from, network_length + sizeof(struct tcphdr));
}

#endif
