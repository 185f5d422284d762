/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Classifier: finds the worker that owns a packet, or passes the packet to the kernel, as it does with malformed ones. It
 * serves XDP and tc, as packet.h does.
 */
#ifndef VL3LB_CLASSIFY_H
#define VL3LB_CLASSIFY_H

#include "packet.h"
#include "shed.h"
#include "steer.h"

/* Result of the classifier: no worker owns the packet, it is passed to the kernel. */
#define VL3LB_NOT_OURS (-1)
/* Result of the classifier: the packet is the worker's, which sheds load. It is dropped and was counted. */
#define VL3LB_SHED (-2)

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

/* Copies a packet that is dropped for its worker's captures, if they want some and the next place is free. */
static __always_inline void
vl3lb_sample(void *ctx, const bool is_skb, struct vl3lb_shed_worker *worker, __u32 owner)
{
	__u32 number = owner * VL3LB_SHED_SAMPLES + worker->sampled % VL3LB_SHED_SAMPLES;
	struct vl3lb_shed_sample *sample = bpf_map_lookup_elem(&shed_samples, &number);
	__u64 length, copied, state = VL3LB_SAMPLE_FREE;

	/* Of two processors that have the same place one leaves its packet out. */
	if (!sample || sample->state != VL3LB_SAMPLE_FREE ||
	    __sync_val_compare_and_swap(&sample->state, VL3LB_SAMPLE_FREE, VL3LB_SAMPLE_WRITTEN) !=
		    VL3LB_SAMPLE_FREE)
		return;
	length = is_skb ? ((struct __sk_buff *)ctx)->len : bpf_xdp_get_buff_len(ctx);
	copied = length < VL3LB_SHED_SAMPLE_BYTES ? length : VL3LB_SHED_SAMPLE_BYTES;
	VL3LB_HIDDEN(copied);
	if (copied >= sizeof(struct iphdr) && copied <= VL3LB_SHED_SAMPLE_BYTES &&
	    !vl3lb_load(ctx, is_skb, 0, sample->bytes, copied)) {
		sample->length = length;
		sample->copied = copied;
		__sync_fetch_and_add(&worker->sampled, 1);
		state = VL3LB_SAMPLE_FULL;
	}
	/* The exchange, which succeeds, orders what was written before it. */
	__sync_val_compare_and_swap(&sample->state, VL3LB_SAMPLE_WRITTEN, state);
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
	if (owner == VL3LB_NOT_OURS || packet->part != VL3LB_WHOLE || !vl3lb_has_ports(packet->protocol))
		return owner;
	worker = bpf_map_lookup_elem(&shed_workers, &owner);
	if (!worker || !worker->active)
		return owner;
	if (packet->protocol == IPPROTO_UDP)
		failed = vl3lb_load(ctx, is_skb, packet->transport, &shed.head, 4);
	else
		failed = vl3lb_load(ctx, is_skb, packet->transport, &shed.head, 14);
	if (failed)
		return owner;
	/* A retransmitted INIT has tag 0 as all others, and the checksum of the first one. */
	if (packet->protocol == IPPROTO_SCTP)
		shed.head.sequence = shed.head.acknowledgment;
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
	if (vl3lb_shed_knows(&shed) || vl3lb_shed_admits(&shed))
		return owner;
	if (worker->sampling)
		vl3lb_sample(ctx, is_skb, worker, owner);
	return VL3LB_SHED;
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
