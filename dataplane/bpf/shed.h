/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sheds load before it costs a copy into a socket: while a worker cannot take all new flows, packets that would open one
 * are admitted here or dropped. dataplane/src/shed/mod.rs has the other half: the worker says how many, and counts what
 * was dropped. The first three arrays are mapped into the workers' memory.
 *
 * Packets of flows pass: TCP without SYN, what is sent to a NAT port, and datagrams of flows that the workers have put
 * into shed_flows. So do those of sources in shed_sources, which have completed a handshake.
 */
#ifndef VL3LB_SHED_H
#define VL3LB_SHED_H

#include <linux/in.h>
#include <bpf/bpf_endian.h>

#include "steer.h"

#define VL3LB_SHED_WORKERS 256
#define VL3LB_SHED_SETS 8192
#define VL3LB_SHED_WAYS 8
#define VL3LB_SHED_SYN_SETS 65536
#define VL3LB_SHED_SYN_WAYS 16

/* A proof is good for so many seconds, as in dataplane/src/pipeline/proven.rs. */
#define VL3LB_SHED_PROOF 600
/* The times in which a SYN counts for a retransmission, in steps, as in dataplane/src/pipeline/refused_syns.rs. */
#define VL3LB_SHED_SOONEST 5
#define VL3LB_SHED_LATEST 100

#define VL3LB_TCP_OPENS 0x02	/* SYN */
#define VL3LB_TCP_OPENING 0x17	/* FIN, SYN, RST, ACK */

struct vl3lb_shed_worker {
	/* Written by the worker. */
	__u64 active;		/* 1 while load is shed */
	__u64 second;		/* its clock, from 1 on */
	__u64 step;		/* the same in tenths of a second */
	__u64 limit;		/* admits while `admitted` is below this */
	__u64 repeat_limit;	/* the same for retransmitted SYNs and `repeats` */
	__u64 zero[3];
	/* Written by the program. */
	__u64 admitted;
	__u64 repeats;
	__u64 dropped;
	__u64 zero_too[5];
};
_Static_assert(sizeof(struct vl3lb_shed_worker) == 128, "mirrored in dataplane/src/shed/memory.rs");
_Static_assert(__builtin_offsetof(struct vl3lb_shed_worker, admitted) == 64, "the second cache line");

/* A word: the lower half of a hash, and the second in which it was written; 0 is free. */
struct vl3lb_shed_set {
	__u64 words[VL3LB_SHED_WAYS];
};

/* SYNs that were seen lately, the oldest of which make room. A word: 24 bits of the hash, and the step; 0 is free. */
struct vl3lb_shed_syns {
	__u32 words[VL3LB_SHED_SYN_WAYS];
	__u32 next;
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
	__uint(max_entries, VL3LB_SHED_SETS);
	__type(key, __u32);
	__type(value, struct vl3lb_shed_set);
} shed_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VL3LB_SHED_SYN_SETS);
	__type(key, __u32);
	__type(value, struct vl3lb_shed_syns);
} shed_syns SEC(".maps");

/* The begin of a transport header. */
struct vl3lb_shed_head {
	__be16 source;
	__be16 destination;
	__be32 sequence;	/* TCP */
	__be32 acknowledgment;
	__u8 offset;
	__u8 flags;
	__u8 zero[2];
};

/* A packet to a service, and its worker. */
struct vl3lb_shed_packet {
	struct vl3lb_address source;
	struct vl3lb_shed_head head;
	__u32 owner;
	__u32 protocol;
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

/* Whether the set of `hash` has it, written in `since` or later. */
static __always_inline bool vl3lb_shed_knows(void *map, __u64 hash, __u32 since)
{
	__u32 number = (hash >> 32) % VL3LB_SHED_SETS;
	const struct vl3lb_shed_set *set = bpf_map_lookup_elem(map, &number);
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

/*
 * Whether a packet goes to its worker, which sheds load: 1, or 0 if it is to be dropped, which was counted.
 *
 * A global function, which the verifier looks at by itself. Otherwise it would look at it once more for each way in which a
 * packet can be classified, which without CAP_PERFMON is more than it takes.
 */
__attribute__((noinline)) int vl3lb_shed_admits(const struct vl3lb_shed_packet *packet)
{
	const struct vl3lb_config *settings;
	struct vl3lb_shed_worker *worker;
	struct vl3lb_address subscriber;
	__u32 zero = 0, owner, second, since;
	bool is_tcp;
	__u64 hash;

	if (!packet)
		return 1;
	owner = packet->owner;
	worker = bpf_map_lookup_elem(&shed_workers, &owner);
	settings = bpf_map_lookup_elem(&config, &zero);
	if (!worker || !settings)
		return 1;
	is_tcp = packet->protocol == IPPROTO_TCP;
	if (is_tcp && (packet->head.flags & VL3LB_TCP_OPENING) != VL3LB_TCP_OPENS)
		return 1;
	second = worker->second;
	since = second > VL3LB_SHED_PROOF ? second - VL3LB_SHED_PROOF : 1;
	subscriber = packet->source;
	/* Of IPv6 the first 64 bits, which are one subscriber's. */
	if (subscriber.words[0] || subscriber.words[1] || subscriber.words[2] != bpf_htonl(0xffff))
		subscriber.words[2] = subscriber.words[3] = 0;
	if (vl3lb_shed_knows(&shed_sources, vl3lb_tuple_hash(settings, subscriber.words, 0, 0, 0), since))
		return 1;
	hash = vl3lb_tuple_hash(settings, packet->source.words, bpf_ntohs(packet->head.source),
				bpf_ntohs(packet->head.destination), packet->protocol);
	if (is_tcp) {
		hash = (hash ^ packet->head.sequence) * 0x9e3779b97f4a7c15ULL;
		if (vl3lb_shed_repeats(hash, worker->step) &&
		    vl3lb_shed_takes(&worker->repeats, worker->repeat_limit))
			return 1;
	} else if (vl3lb_shed_knows(&shed_flows, hash, 1)) {
		return 1;
	}
	if (vl3lb_shed_takes(&worker->admitted, worker->limit))
		return 1;
	__sync_fetch_and_add(&worker->dropped, 1);
	return 0;
}

#endif
