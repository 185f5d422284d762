/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fast path: established flows are translated in the kernel and sent out of the interface that they came
 * in by. The workers decide which flows; the program only reads what they wrote.
 *
 * Three arrays are mapped into the workers' memory, so no flow costs a system call:
 *
 *   fast_index	buckets of words; a word names a flow and a direction. A worker owns the words of its flows.
 *   fast_flows	one record per flow: identity and translation, written by the worker while no word names the
 *		record; what may change, a word at a time; and per direction what the program counts.
 *   fast_rounds	one number per CPU, odd while the program runs there.
 *
 * A worker that takes a flow back clears its words, and then waits until each CPU whose number was odd has
 * another one. From then on no program knows the record: its counters are final, and its NAT port and the
 * record itself can get another owner. That needs the full barriers in vl3lb_fast.
 * dataplane/src/fastpath/mod.rs has the other half of the protocol.
 *
 * The program takes whole packets of such a flow that change nothing about its state. All others go to the
 * worker as without the fast path.
 *
 * The same source is part of steer_tc and, without super-packets and raw IP, of steer_xdp: fastpath_packet.h has
 * what they do differently.
 */
#ifndef VL3LB_FASTPATH_H
#define VL3LB_FASTPATH_H

#include "fastpath_packet.h"

/* Result of the fast path: no flow's packet, which was not touched. Other results are of vl3lb_fast_counter. */
#define VL3LB_NOT_TAKEN (-1)

/* Without a call: a BPF program has no memcmp. */
static __always_inline bool vl3lb_same_mac(const __u8 *a, const __u8 *b)
{
	__u8 difference = 0;

	for (int i = 0; i < ETH_ALEN; i++)
		difference |= a[i] ^ b[i];
	return !difference;
}

/* The number that is ahead (RFC 9293 section 3.4). */
static __always_inline __u32 vl3lb_later(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0 ? a : b;
}

/*
 * A segment of an open connection, judged as dataplane/src/flow/sequence.rs does. What a direction has sent is
 * the later of its own number and what the other end has acknowledged. Two CPUs that work on one direction at
 * the same time may leave a number that is one segment old: the next segment is ahead of it then, and sets it
 * right.
 */
static __always_inline void
vl3lb_fast_follow(struct vl3lb_fast_flow *flow, const enum vl3lb_direction direction, __u32 sequence,
		  __u32 acknowledgment, __u32 payload)
{
	struct vl3lb_fast_side *side = &flow->sides[direction];
	const struct vl3lb_fast_side *other = &flow->sides[!direction];
	const __u32 end = vl3lb_later(side->end, other->acknowledged);
	const __u32 other_end = vl3lb_later(other->end, side->acknowledged);
	const __u32 next = sequence + payload;
	const __u32 moved = next - end;
	__u32 gap = acknowledgment - other_end;

	if (sequence == end) {
		side->end = next;
		if ((__s32)gap > 0 && gap <= flow->windows[direction])
			side->acknowledged = acknowledgment;
		return;
	}
	if ((__s32)gap < 0)
		gap = -gap;
	if ((__s32)moved > 0 && moved <= flow->windows[!direction] && gap <= flow->windows[direction])
		side->end = next;
}

static __always_inline bool
vl3lb_fast_is_key(const struct vl3lb_fast_flow *flow, const enum vl3lb_direction direction,
		  const struct vl3lb_fast_packet *packet, const struct tcphdr *transport)
{
	if (flow->protocol != packet->protocol ||
	    !vl3lb_same_address(&flow->local, &packet->destination))
		return false;
	if (direction == VL3LB_IN)
		return vl3lb_same_address(&flow->client, &packet->source) &&
		       flow->client_port == transport->source && flow->service_port == transport->dest;
	return vl3lb_same_address(&flow->backend, &packet->source) &&
	       flow->backend_port == transport->source && flow->nat_port == transport->dest;
}

/*
 * Gives an IPv4 packet that may be fragmented on its way the first of `segments` identifications in a row: many clients
 * share the balancer's address (RFC 6864 section 5.3.1). The workers have shares of the numbers, and the program the
 * last one; dataplane/src/pipeline/identification.rs divides them. False if the packet is the worker's.
 */
static __always_inline bool
vl3lb_fast_identify(const struct vl3lb_config *settings, struct iphdr *ip, __u32 path, __u32 segments)
{
	const __u32 share = (1U << 16) / (settings->workers + 1U);
	__u32 number = path % VL3LB_FAST_IDENTIFICATIONS;
	__u32 *counter = bpf_map_lookup_elem(&fast_identifications, &number);
	__u32 first;

	if (!counter || segments >= share)
		return false;
	path = (path >> 16) + (__u16)fast_first_identification;
	first = (__sync_fetch_and_add(counter, segments) + path) % share;
	/* A row does not go on at the share's begin. */
	if (first + segments > share)
		first = (__sync_fetch_and_add(counter, segments) + path) % share;
	ip->check = ~vl3lb_fold((__u16)~ip->check + (__u16)~ip->id +
				bpf_htons(settings->workers * share + first));
	ip->id = bpf_htons(settings->workers * share + first);
	return true;
}

static __always_inline void
vl3lb_fast_translate_ipv4(struct iphdr *ip, const struct vl3lb_fast_flow *flow, const struct vl3lb_address *to,
			  __u32 delta)
{
	const __u16 *hops = (const __u16 *)&ip->ttl;
	__u32 sum = (__u16)~ip->check + (__u16)~*hops + delta;

	ip->ttl -= 1;
	sum += *hops;
	ip->check = ~vl3lb_fold(sum);
	ip->saddr = flow->local.words[3];
	ip->daddr = to->words[3];
}

static __always_inline void
vl3lb_fast_translate_ipv6(struct ipv6hdr *ip, const struct vl3lb_fast_flow *flow,
			  const struct vl3lb_address *to)
{
	ip->hop_limit -= 1;
	__builtin_memcpy(&ip->saddr, &flow->local, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, to, sizeof(ip->daddr));
}

/*
 * Decides about a packet whose key is the flow's, translates and counts it. `head` is its copy, `ethernet` in
 * it. Returns a counter.
 */
static __always_inline int
vl3lb_fast_take(void *ctx, const bool is_skb, const struct vl3lb_config *settings, struct vl3lb_fast_flow *flow,
		const enum vl3lb_direction direction, const __u8 version, struct vl3lb_fast_packet *packet,
		struct ethhdr *ethernet, void *ip, struct tcphdr *transport)
{
	const __u32 offset = raw_ip ? 0 : ETH_HLEN;
	const __u32 ip_length = version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const bool is_tcp = packet->protocol == IPPROTO_TCP;
	const struct vl3lb_address *to = direction == VL3LB_IN ? &flow->backend : &flow->client;
	struct vl3lb_fast_side *side = &flow->sides[direction];
	const __u32 delta = flow->deltas[direction];
	const __u32 segment = is_skb ? ((struct __sk_buff *)ctx)->gso_size : 0;
	const struct vl3lb_ports ports = {
		.source = direction == VL3LB_IN ? flow->nat_port : flow->service_port,
		.destination = direction == VL3LB_IN ? flow->backend_port : flow->client_port,
	};
	__u32 longest = packet->length;
	__u32 segments = 1;
	int result;

	if (packet->hops <= 1)
		return VL3LB_FAST_HOPS;
	if (is_tcp && (!transport->ack || transport->syn || transport->fin || transport->rst))
		return VL3LB_FAST_FLAGS;
	if (packet->length < packet->headers || offset + packet->length > packet->frame)
		return VL3LB_FAST_MALFORMED;
	if (segment) {
		longest = packet->headers + segment;
		segments = (packet->length - packet->headers + segment - 1) / segment;
	}
	if (longest > flow->mtus[direction])
		return VL3LB_FAST_SIZE;
	if (!raw_ip && direction == VL3LB_IN && flow->hops[VL3LB_OUT][ETH_ALEN] &&
	    !vl3lb_same_mac(flow->hops[VL3LB_OUT], ethernet->h_source))
		return VL3LB_FAST_NEIGHBOR;
	if (!is_skb && vl3lb_fast_is_partial(packet, ip_length, transport))
		return VL3LB_FAST_PARTIAL;
	if (version == 4 && !((struct iphdr *)ip)->frag_off &&
	    !vl3lb_fast_identify(settings, ip, flow->paths[direction], segments))
		return VL3LB_FAST_REFUSED;

	if (is_skb) {
		result = vl3lb_fast_translate_skb(ctx, version, offset + ip_length, packet, transport, delta, ports);
		if (result != VL3LB_FAST_TAKEN)
			return result;
	} else {
		vl3lb_fast_translate_copy(packet, transport, delta, ports);
	}
	if (version == 4)
		vl3lb_fast_translate_ipv4(ip, flow, to, delta);
	else
		vl3lb_fast_translate_ipv6(ip, flow, to);
	if (!raw_ip) {
		/* At once: the worker may write another next hop. */
		__u64 hop = *(volatile __u64 *)flow->hops[direction];

		__builtin_memcpy(ethernet->h_dest, &hop, ETH_ALEN);
		__builtin_memcpy(ethernet->h_source, settings->own_mac, ETH_ALEN);
	}
	if (vl3lb_fast_write(ctx, is_skb, packet->protocol, raw_ip ? ip : ethernet, offset + ip_length))
		return is_skb ? VL3LB_FAST_LOST : VL3LB_FAST_REFUSED;

	if (is_tcp)
		vl3lb_fast_follow(flow, direction, bpf_ntohl(transport->seq), bpf_ntohl(transport->ack_seq),
				  packet->length - packet->headers);
	side->used = bpf_ktime_get_coarse_ns();
	__sync_fetch_and_add(&side->packets, segments);
	__sync_fetch_and_add(&side->bytes, packet->length + (segments - 1) * packet->headers);
	/* Keeps the code of both directions apart: without CAP_PERFMON, a variable may not choose the side. */
	asm volatile("" : : "i"(direction));
	return VL3LB_FAST_TAKEN;
}

/* Finds the flow of a packet. */
static __always_inline int
vl3lb_fast_find(void *ctx, const bool is_skb, const struct vl3lb_config *settings, const __u8 version,
		struct vl3lb_fast_packet *packet, struct ethhdr *ethernet, void *ip, struct tcphdr *transport)
{
	const __u64 hash = vl3lb_tuple_hash(settings, packet->source.words, bpf_ntohs(transport->source),
					    bpf_ntohs(transport->dest), packet->protocol);
	struct vl3lb_fast_bucket *bucket;
	struct vl3lb_fast_flow *flow;
	__u32 number = (__u32)(hash >> 32) & (fast_buckets - 1);
	__u32 found = 0;

	bucket = bpf_map_lookup_elem(&fast_index, &number);
	if (!bucket)
		return VL3LB_NOT_TAKEN;
	for (int i = 0; i < VL3LB_FAST_WORDS; i++) {
		__u64 word = *(volatile __u64 *)&bucket->words[i];

		if (word >> 32 == (__u32)hash && (__u32)word)
			found = word;
	}
	if (!found)
		return VL3LB_NOT_TAKEN;
	number = (found >> 1) - 1;
	flow = bpf_map_lookup_elem(&fast_flows, &number);
	if (!flow)
		return VL3LB_NOT_TAKEN;
	if (found & 1)
		return vl3lb_fast_is_key(flow, VL3LB_OUT, packet, transport)
			       ? vl3lb_fast_take(ctx, is_skb, settings, flow, VL3LB_OUT, version, packet,
						 ethernet, ip, transport)
			       : VL3LB_NOT_TAKEN;
	return vl3lb_fast_is_key(flow, VL3LB_IN, packet, transport)
		       ? vl3lb_fast_take(ctx, is_skb, settings, flow, VL3LB_IN, version, packet, ethernet, ip,
					 transport)
		       : VL3LB_NOT_TAKEN;
}

static __always_inline bool
vl3lb_fast_is_own_frame(const struct vl3lb_config *settings, const struct ethhdr *ethernet, __be16 type)
{
	return raw_ip || (vl3lb_same_mac(ethernet->h_dest, settings->own_mac) &&
			  ethernet->h_proto == type);
}

/* The length of the headers, 0 if the transport header is none that the fast path takes. */
static __always_inline __u32
vl3lb_fast_headers(const struct vl3lb_fast_packet *packet, __u32 ip_length, const struct tcphdr *transport)
{
	const struct udphdr *udp = (const struct udphdr *)transport;

	if (packet->protocol == IPPROTO_TCP)
		return transport->doff >= 5 && packet->length >= ip_length + sizeof(*transport)
			       ? ip_length + transport->doff * 4U
			       : 0;
	if (packet->protocol == IPPROTO_UDP)
		return bpf_ntohs(udp->len) == packet->length - ip_length &&
				       packet->length >= ip_length + sizeof(*udp)
			       ? ip_length + sizeof(*udp)
			       : 0;
	return 0;
}

/* IPv4 without options and not fragmented. */
static __always_inline int vl3lb_fast_ipv4(void *ctx, const bool is_skb)
{
	const struct vl3lb_config *settings;
	struct vl3lb_fast_head4 head = {};
	struct vl3lb_fast_packet packet = {};
	__u32 zero = 0;
	long failed;

	settings = bpf_map_lookup_elem(&config, &zero);
	packet.frame = vl3lb_fast_length(ctx, is_skb);
	if (!settings || !packet.frame)
		return VL3LB_NOT_TAKEN;

	if (raw_ip)
		failed = vl3lb_fast_copy(ctx, is_skb, packet.frame, &head.ip, sizeof(head.ip));
	else
		failed = vl3lb_fast_copy(ctx, is_skb, packet.frame, &head.ethernet, ETH_HLEN + sizeof(head.ip));
	if (failed)
		return VL3LB_NOT_TAKEN;
	if (!vl3lb_fast_is_own_frame(settings, &head.ethernet, bpf_htons(ETH_P_IP)))
		return VL3LB_NOT_TAKEN;
	if (head.ip.version != 4 || head.ip.ihl != 5 ||
	    (head.ip.frag_off & bpf_htons((__u16)~VL3LB_IPV4_DONT_FRAGMENT)) || !vl3lb_is_header_sum_right(&head.ip))
		return VL3LB_NOT_TAKEN;
	vl3lb_map_ipv4(&packet.source, head.ip.saddr);
	vl3lb_map_ipv4(&packet.destination, head.ip.daddr);
	packet.length = bpf_ntohs(head.ip.tot_len);
	packet.protocol = head.ip.protocol;
	packet.hops = head.ip.ttl;
	packet.headers = vl3lb_fast_headers(&packet, sizeof(head.ip), &head.transport);
	if (!packet.headers)
		return VL3LB_NOT_TAKEN;
	return vl3lb_fast_find(ctx, is_skb, settings, 4, &packet, &head.ethernet, &head.ip, &head.transport);
}

/* IPv6 without extension headers. */
static __always_inline int vl3lb_fast_ipv6(void *ctx, const bool is_skb)
{
	const struct vl3lb_config *settings;
	struct vl3lb_fast_head6 head = {};
	struct vl3lb_fast_packet packet = {};
	__u32 zero = 0;
	long failed;

	settings = bpf_map_lookup_elem(&config, &zero);
	packet.frame = vl3lb_fast_length(ctx, is_skb);
	if (!settings || !packet.frame)
		return VL3LB_NOT_TAKEN;

	if (raw_ip)
		failed = vl3lb_fast_copy(ctx, is_skb, packet.frame, &head.ip, sizeof(head.ip));
	else
		failed = vl3lb_fast_copy(ctx, is_skb, packet.frame, &head.ethernet, ETH_HLEN + sizeof(head.ip));
	if (failed)
		return VL3LB_NOT_TAKEN;
	if (!vl3lb_fast_is_own_frame(settings, &head.ethernet, bpf_htons(ETH_P_IPV6)))
		return VL3LB_NOT_TAKEN;
	if (head.ip.version != 6 || !head.ip.payload_len)
		return VL3LB_NOT_TAKEN;
	__builtin_memcpy(&packet.source, &head.ip.saddr, sizeof(packet.source));
	__builtin_memcpy(&packet.destination, &head.ip.daddr, sizeof(packet.destination));
	packet.length = sizeof(head.ip) + bpf_ntohs(head.ip.payload_len);
	packet.protocol = head.ip.nexthdr;
	packet.hops = head.ip.hop_limit;
	packet.headers = vl3lb_fast_headers(&packet, sizeof(head.ip), &head.transport);
	if (!packet.headers)
		return VL3LB_NOT_TAKEN;
	return vl3lb_fast_find(ctx, is_skb, settings, 6, &packet, &head.ethernet, &head.ip, &head.transport);
}

/* Functions of their own, so that they share no stack with the classifier. */

static __attribute__((noinline)) int vl3lb_fast_ipv4_skb(struct __sk_buff *skb)
{
	return vl3lb_fast_ipv4(skb, true);
}

static __attribute__((noinline)) int vl3lb_fast_ipv6_skb(struct __sk_buff *skb)
{
	return vl3lb_fast_ipv6(skb, true);
}

static __attribute__((noinline)) int vl3lb_fast_ipv4_xdp(struct xdp_md *frame)
{
	return vl3lb_fast_ipv4(frame, false);
}

static __attribute__((noinline)) int vl3lb_fast_ipv6_xdp(struct xdp_md *frame)
{
	return vl3lb_fast_ipv6(frame, false);
}

/*
 * Takes a packet of a flow in fast_flows and returns a counter, or returns VL3LB_NOT_TAKEN or a counter of packets
 * that are the worker's. Reads the index only between the two numbers of this CPU's round. Both changes return the
 * former number, so that they are full barriers on every architecture. Where a program interrupts another one of the
 * same CPU, its packet goes to the worker.
 */
static __always_inline int vl3lb_fast(void *ctx, const bool is_skb)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct vl3lb_fast_round *round;
	__u64 *count;
	__u64 number;
	int result;
	__u32 counter;
	__be16 type;

	if (!fast_buckets)
		return VL3LB_NOT_TAKEN;
	round = bpf_map_lookup_elem(&fast_rounds, &cpu);
	if (!round)
		return VL3LB_NOT_TAKEN;
	number = *(volatile __u64 *)&round->number;
	if (number & 1)
		return VL3LB_NOT_TAKEN;
	__sync_lock_test_and_set(&round->number, number + 1);
	result = VL3LB_NOT_TAKEN;
	type = vl3lb_fast_type(ctx, is_skb);
	if (type == bpf_htons(ETH_P_IP))
		result = is_skb ? vl3lb_fast_ipv4_skb(ctx) : vl3lb_fast_ipv4_xdp(ctx);
	else if (type == bpf_htons(ETH_P_IPV6))
		result = is_skb ? vl3lb_fast_ipv6_skb(ctx) : vl3lb_fast_ipv6_xdp(ctx);
	__sync_lock_test_and_set(&round->number, number + 2);
	if (result == VL3LB_NOT_TAKEN)
		return VL3LB_NOT_TAKEN;
	counter = result;
	count = bpf_map_lookup_elem(&fast_counters, &counter);
	if (count)
		*count += 1;
	return result;
}

#endif
