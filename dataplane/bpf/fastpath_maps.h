/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The maps of the fast path (fastpath.h). The first three are mapped into the workers' memory:
 * dataplane/src/fastpath/layout.rs has their layout, too.
 */
#ifndef VL3LB_FASTPATH_MAPS_H
#define VL3LB_FASTPATH_MAPS_H

#include "steer.h"

#define VL3LB_FAST_WORDS 8

/* A word: the lower half of the tuple's hash, the record's number plus one, and the direction. 0 is free. */
struct vl3lb_fast_bucket {
	__u64 words[VL3LB_FAST_WORDS];
};

/* What the program knows of one direction. Written by the program only, once a word names the record. */
struct vl3lb_fast_side {
	__u64 packets;		/* as on the wire: the segments of a super-packet are counted one by one */
	__u64 bytes;		/* of IP packets */
	__u64 used;		/* CLOCK_MONOTONIC, a few milliseconds exact */
	__u32 end;		/* TCP: the sequence number behind what was sent in order */
	__u32 acknowledged;	/* TCP: what it acknowledged that was not seen */
	__u64 zero[4];
};
_Static_assert(sizeof(struct vl3lb_fast_side) == 64, "a cache line: two CPUs write two of them");

enum vl3lb_direction {
	VL3LB_IN = 0,	/* from the client to the backend */
	VL3LB_OUT = 1,
};

struct vl3lb_fast_flow {
	/* The flow's identity. */
	struct vl3lb_address client;
	struct vl3lb_address local;
	struct vl3lb_address backend;
	__be16 client_port;
	__be16 service_port;
	__be16 nat_port;
	__be16 backend_port;
	__u8 protocol;
	__u8 zero[7];
	/* By direction. Each word is written as a whole: the next hop's MAC address, and 1 behind it if it was
	 * learned from the client's packets. */
	__u8 hops[2][8];
	__u16 mtus[4];		/* the longest packet, by direction; two are unused */
	__u32 windows[2];	/* TCP: the largest window that the sender of a direction offers */
	__u32 deltas[2];	/* what the addresses change in a checksum */
	__u32 paths[2];		/* a keyed hash of the receiver: IPv4 identifications are counted by it */
	__u64 zero_too[2];
	struct vl3lb_fast_side sides[2];
};
_Static_assert(sizeof(struct vl3lb_fast_flow) == 256, "mirrored in dataplane/src/fastpath/layout.rs");
_Static_assert(__builtin_offsetof(struct vl3lb_fast_flow, hops) == 64, "the second cache line");
_Static_assert(__builtin_offsetof(struct vl3lb_fast_flow, sides) == 128, "the third cache line");

struct vl3lb_fast_round {
	__u64 number;
	__u64 zero[7];
};

/* Buckets of the index, a power of two; 0 without fast path. */
const volatile __u32 fast_buckets = 0;

/* User space sets max_entries of the three. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vl3lb_fast_bucket);
} fast_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vl3lb_fast_flow);
} fast_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vl3lb_fast_round);
} fast_rounds SEC(".maps");

/* Counters of IPv4 identifications, of which flows to the same receiver share one. A power of two. */
#define VL3LB_FAST_IDENTIFICATIONS 1024

/* Where all of them begin, at random. */
const volatile __u64 fast_first_identification = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VL3LB_FAST_IDENTIFICATIONS);
	__type(key, __u32);
	__type(value, __u32);
} fast_identifications SEC(".maps");

/* Packets of flows in fast_flows: taken, or why not. Super-packets count once. */
enum vl3lb_fast_counter {
	VL3LB_FAST_TAKEN = 0,
	VL3LB_FAST_FLAGS = 1,	/* TCP: SYN, FIN or RST, or no ACK */
	VL3LB_FAST_HOPS = 2,	/* TTL or hop limit is used up */
	VL3LB_FAST_SIZE = 3,	/* longer than the next hop takes */
	VL3LB_FAST_NEIGHBOR = 4,	/* the client's packets come from another MAC address */
	VL3LB_FAST_MALFORMED = 5,
	VL3LB_FAST_REFUSED = 6,	/* the kernel refused to change the packet */
	VL3LB_FAST_LOST = 7,	/* the same, when it was changed in part: dropped */
	VL3LB_FAST_PARTIAL = 8,	/* XDP: the sender left the transport checksum to its hardware */
	VL3LB_FAST_COUNTERS = 9,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VL3LB_FAST_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} fast_counters SEC(".maps");

#endif
