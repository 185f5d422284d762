/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sheds load before it costs a copy into a socket: while a worker cannot take all that comes, packets that would open a
 * flow, or that belong to none, are admitted here or dropped. dataplane/src/shed/mod.rs has the other half: the worker says
 * how many, and counts what was dropped. The arrays are mapped into the workers' memory, except shed_syns.
 *
 * Packets of flows pass, which the workers have noted in shed_flows. So do those of sources in shed_sources, which have
 * completed a handshake, but not to a NAT port.
 */
#ifndef VL3LB_SHED_H
#define VL3LB_SHED_H

#include <linux/in.h>
#include <bpf/bpf_endian.h>

#include "steer.h"

#define VL3LB_SHED_WORKERS 256
#define VL3LB_SHED_SETS 8192
#define VL3LB_SHED_WAYS 8
#define VL3LB_SHED_FLOW_SETS 131072
#define VL3LB_SHED_SYN_SETS 65536
#define VL3LB_SHED_SYN_WAYS 16
#define VL3LB_SHED_SAMPLES 16
#define VL3LB_SHED_SAMPLE_BYTES 240

/* A proof is good for so many seconds, as in dataplane/src/pipeline/proven.rs. */
#define VL3LB_SHED_PROOF 600
/* The times in which a SYN counts for a retransmission, in steps, as in dataplane/src/pipeline/refused_syns.rs. */
#define VL3LB_SHED_SOONEST 5
#define VL3LB_SHED_LATEST 100
/* A flow is known for so many seconds after it was noted, as in dataplane/src/pipeline/known_flows.rs. */
#define VL3LB_SHED_NOTED 30
/* A worker that does not run leaves its clock so many seconds behind that of others, and of its own next notes. */
#define VL3LB_SHED_BEHIND 10

#define VL3LB_TCP_OPENS 0x02	/* SYN */
#define VL3LB_TCP_OPENING 0x17	/* FIN, SYN, RST, ACK */
#define VL3LB_SCTP_OPENS 1	/* type of the chunk INIT, which is alone in its packet (RFC 9260 section 3.3.2) */

struct vl3lb_shed_worker {
	/* Written by the worker. */
	__u64 active;		/* 1 while load is shed */
	__u64 second;		/* its clock, from 1 on */
	__u64 step;		/* the same in tenths of a second */
	__u64 limit;		/* admits while `admitted` is below this */
	__u64 repeat_limit;	/* the same for retransmitted SYNs and `repeats` */
	__u64 stray_limit;	/* the same for packets of no known flow that open none, and `strays` */
	__u64 noted;		/* its clock, as in the bytes of shed_flows */
	__u64 sampling;		/* 1 while dropped packets are copied for a capture */
	/* Written by the program. */
	__u64 admitted;
	__u64 repeats;
	__u64 dropped;
	__u64 strays;
	__u64 sampled;
	__u64 zero[3];
};
_Static_assert(sizeof(struct vl3lb_shed_worker) == 128, "mirrored in dataplane/src/shed/memory.rs");
_Static_assert(__builtin_offsetof(struct vl3lb_shed_worker, admitted) == 64, "the second cache line");

/* A word: the lower half of a hash, and the second in which it was written; 0 is free. */
struct vl3lb_shed_set {
	__u64 words[VL3LB_SHED_WAYS];
};

/*
 * Bytes, one for each part of the hash of a packet's source, ports and protocol: when a flow with such packets was noted
 * last, in seconds from 1 to 255 and from 1 on again; 0 is never. Some packets of no flow meet the byte of another one.
 */
struct vl3lb_shed_flows {
	__u64 words[8];
};

/* SYNs that were seen lately, the oldest of which make room. A word: 24 bits of the hash, and the step; 0 is free. */
struct vl3lb_shed_syns {
	__u32 words[VL3LB_SHED_SYN_WAYS];
	__u32 next;
};

/* The begin of a packet that was dropped. It is the program's while it is free, and the worker's once it is full. */
struct vl3lb_shed_sample {
	__u64 state;		/* VL3LB_SAMPLE_* */
	__u32 length;		/* of the packet */
	__u32 copied;
	__u8 bytes[VL3LB_SHED_SAMPLE_BYTES];
};
_Static_assert(sizeof(struct vl3lb_shed_sample) == 256, "mirrored in dataplane/src/shed/memory.rs");

enum {
	VL3LB_SAMPLE_FREE,
	VL3LB_SAMPLE_WRITTEN,	/* by one processor at this moment */
	VL3LB_SAMPLE_FULL,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, VL3LB_SHED_WORKERS);
	__type(key, __u32);
	__type(value, struct vl3lb_shed_worker);
} shed_workers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, VL3LB_SHED_SETS);
	__type(key, __u32);
	__type(value, struct vl3lb_shed_set);
} shed_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, VL3LB_SHED_FLOW_SETS);
	__type(key, __u32);
	__type(value, struct vl3lb_shed_flows);
} shed_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VL3LB_SHED_SYN_SETS);
	__type(key, __u32);
	__type(value, struct vl3lb_shed_syns);
} shed_syns SEC(".maps");

/* Of each worker so many. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, VL3LB_SHED_WORKERS * VL3LB_SHED_SAMPLES);
	__type(key, __u32);
	__type(value, struct vl3lb_shed_sample);
} shed_samples SEC(".maps");

/* The begin of a transport header; after the ports, of TCP or of SCTP. */
struct vl3lb_shed_head {
	__be16 source;
	__be16 destination;
	__be32 sequence;	/* or verification tag, and then a copy of the checksum */
	__be32 acknowledgment;	/* or checksum */
	__u8 offset;		/* or type of the first chunk */
	__u8 flags;
	__u8 zero[2];
};

/* A packet to a service or a NAT port, and its worker. */
struct vl3lb_shed_packet {
	struct vl3lb_address source;
	struct vl3lb_shed_head head;
	__u32 owner;
	__u16 protocol;
	__u16 is_reply;		/* to a NAT port */
};

/*
 * Comparisons of numbers below 2^63 without a branch: for each branch in the search of a set, the verifier would look at all
 * that follows once more. The compiler must not see what is computed.
 */
#define VL3LB_HIDDEN(x) asm volatile("" : "+r"(x))

static __always_inline __u64 vl3lb_is_less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	VL3LB_HIDDEN(difference);
	return difference >> 63;
}

static __always_inline __u64 vl3lb_is_equal(__u64 a, __u64 b)
{
	return vl3lb_is_less(a ^ b, 1);
}

/* Whether the source with this hash has proven itself in `since` or later. */
static __always_inline bool vl3lb_shed_is_proven(__u64 hash, __u32 since)
{
	__u32 number = (hash >> 32) % VL3LB_SHED_SETS;
	const struct vl3lb_shed_set *set = bpf_map_lookup_elem(&shed_sources, &number);
	__u64 known = 0;

	if (!set)
		return false;
#pragma unroll
	for (int way = 0; way < VL3LB_SHED_WAYS; way++) {
		__u64 word = set->words[way];

		known |= vl3lb_is_equal(word >> 32, (__u32)hash) & ~vl3lb_is_less((__u32)word, since);
	}
	return known & 1;
}

/* Whether a flow whose packets have this hash was noted lately. */
static __always_inline bool vl3lb_shed_is_noted(__u64 hash, __u8 now)
{
	__u32 number = (hash >> 32) % VL3LB_SHED_FLOW_SETS;
	const struct vl3lb_shed_flows *set = bpf_map_lookup_elem(&shed_flows, &number);
	__u8 noted, age;

	if (!set)
		return false;
	noted = set->words[hash >> 3 & 7] >> ((hash & 7) * 8);
	age = now >= noted ? now - noted : now + 255 - noted;
	return noted && (age <= VL3LB_SHED_NOTED || age >= 255 - VL3LB_SHED_BEHIND);
}

/* Whether a SYN was seen before, long enough ago for a retransmission; otherwise it is noted as seen now. */
static __always_inline bool vl3lb_shed_repeats(__u64 hash, __u8 step)
{
	__u32 number = (hash >> 32) % VL3LB_SHED_SYN_SETS;
	__u32 tag = ((__u32)hash | 0x100) & 0xffffff00;
	struct vl3lb_shed_syns *set = bpf_map_lookup_elem(&shed_syns, &number);
	__u64 seen = 0, repeated = 0;

	if (!set)
		return false;
#pragma unroll
	for (int way = 0; way < VL3LB_SHED_SYN_WAYS; way++) {
		__u32 word = set->words[way];
		__u64 age = (step - word) & 0xff;
		__u64 same = vl3lb_is_equal(word & 0xffffff00, tag) & vl3lb_is_less(age, VL3LB_SHED_LATEST + 1);

		seen |= same;
		repeated |= same & ~vl3lb_is_less(age, VL3LB_SHED_SOONEST);
	}
	if (!(seen & 1))
		set->words[set->next++ % VL3LB_SHED_SYN_WAYS] = tag | step;
	return repeated & 1;
}

static __always_inline bool vl3lb_shed_takes(__u64 *used, __u64 limit)
{
	if ((__s64)(limit - *used) <= 0)
		return false;
	__sync_fetch_and_add(used, 1);
	return true;
}

/* Whether a packet opens no flow, so that it belongs to one or to none. */
static __always_inline bool vl3lb_shed_is_late(const struct vl3lb_shed_packet *packet)
{
	return packet->is_reply ||
	       (packet->protocol == IPPROTO_TCP &&
		(packet->head.flags & VL3LB_TCP_OPENING) != VL3LB_TCP_OPENS) ||
	       (packet->protocol == IPPROTO_SCTP && packet->head.offset != VL3LB_SCTP_OPENS);
}

static __always_inline __u64
vl3lb_shed_hash(const struct vl3lb_config *settings, const struct vl3lb_shed_packet *packet)
{
	return vl3lb_tuple_hash(settings, packet->source.words, bpf_ntohs(packet->head.source),
				bpf_ntohs(packet->head.destination), packet->protocol);
}

/*
 * Two global functions, which the verifier looks at by themselves. Otherwise it would look at them once more for each way in
 * which a packet can be classified, which without CAP_PERFMON is more than it takes. In one they would take too much of the
 * stack.
 */

/* Whether a packet is of a flow that was noted lately. A SYN or INIT is taken for the begin of another one. */
__attribute__((noinline)) int vl3lb_shed_knows(const struct vl3lb_shed_packet *packet)
{
	const struct vl3lb_config *settings;
	const struct vl3lb_shed_worker *worker;
	__u32 zero = 0, owner;

	if (!packet || (packet->protocol != IPPROTO_UDP && !vl3lb_shed_is_late(packet)))
		return 0;
	owner = packet->owner;
	worker = bpf_map_lookup_elem(&shed_workers, &owner);
	settings = bpf_map_lookup_elem(&config, &zero);
	return worker && settings && vl3lb_shed_is_noted(vl3lb_shed_hash(settings, packet), worker->noted);
}

/*
 * Whether a packet of no known flow goes to its worker, which sheds load: 1, or 0 if it is to be dropped, which was counted.
 */
__attribute__((noinline)) int vl3lb_shed_admits(const struct vl3lb_shed_packet *packet)
{
	const struct vl3lb_config *settings;
	struct vl3lb_shed_worker *worker;
	__u32 zero = 0, owner, second, since;
	struct vl3lb_address subscriber;
	__u64 hash;

	if (!packet)
		return 1;
	owner = packet->owner;
	worker = bpf_map_lookup_elem(&shed_workers, &owner);
	settings = bpf_map_lookup_elem(&config, &zero);
	if (!worker || !settings)
		return 1;
	second = worker->second;
	since = second > VL3LB_SHED_PROOF ? second - VL3LB_SHED_PROOF : 1;
	subscriber = packet->source;
	/* Of IPv6 the first 64 bits, which are one subscriber's. */
	if (subscriber.words[0] || subscriber.words[1] || subscriber.words[2] != bpf_htonl(0xffff))
		subscriber.words[2] = subscriber.words[3] = 0;
	if (!packet->is_reply &&
	    vl3lb_shed_is_proven(vl3lb_tuple_hash(settings, subscriber.words, 0, 0, 0), since))
		return 1;
	if (vl3lb_shed_is_late(packet)) {
		if (vl3lb_shed_takes(&worker->strays, worker->stray_limit))
			return 1;
		goto drop;
	}
	if (packet->protocol != IPPROTO_UDP) {
		hash = vl3lb_shed_hash(settings, packet);
		hash = (hash ^ packet->head.sequence) * 0x9e3779b97f4a7c15ULL;
		if (vl3lb_shed_repeats(hash, worker->step) &&
		    vl3lb_shed_takes(&worker->repeats, worker->repeat_limit))
			return 1;
	}
	if (vl3lb_shed_takes(&worker->admitted, worker->limit))
		return 1;
drop:
	__sync_fetch_and_add(&worker->dropped, 1);
	return 0;
}

#endif
