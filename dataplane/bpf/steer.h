/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps and constants that the steer programs share with user space. Keys and values are mirrored
 * in dataplane/src/steer/program.rs.
 */
#ifndef VL3LB_STEER_H
#define VL3LB_STEER_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "owner.h"

/* An address in network order: IPv6, or IPv4 as an IPv4-mapped address (RFC 4291 section 2.5.5.2). */
struct vl3lb_address {
	__be32 words[4];
};
_Static_assert(sizeof(struct vl3lb_address) == 16, "written by Rust as [u8; 16]");

struct vl3lb_service_key {
	struct vl3lb_address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};
_Static_assert(sizeof(struct vl3lb_service_key) == 20, "written by Rust as [u8; 20]");

/* The key of a fragmented datagram (RFC 791 section 3.2, RFC 8200 section 4.5). */
struct vl3lb_fragment_key {
	struct vl3lb_address source;
	struct vl3lb_address destination;
	__u32 id;
	__u32 protocol;
};

/* Constants that user space sets before it loads the programs. */
const volatile __u8 raw_ip = 0;		/* frames begin with the IP header */
const volatile __u32 near_index = 0;	/* companion mode: the near end of the pair */

/* (address, port, protocol) of every service. Written by user space, never by the packet path. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct vl3lb_service_key);
	__type(value, __u8);
} services SEC(".maps");

/* The balancer's addresses on the interface, including those of all services. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, struct vl3lb_address);
	__type(value, __u8);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vl3lb_config);
} config SEC(".maps");

/* Ports as a bitmap: bit `port % 64` of word `port / 64`. Written by Rust as [u64; 1024]. */
struct vl3lb_port_set {
	__u64 words[1024];
};

/* Ports of the range of NAT ports that no flow gets: the kernel's, and those of services. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vl3lb_port_set);
} left_out_ports SEC(".maps");

/* AF_XDP sockets by receive queue. User space sets max_entries to the queue count. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/*
 * Datagrams whose first fragment was passed to the kernel; their other fragments are passed too. LRU:
 * a flood evicts entries and costs only their datagrams.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct vl3lb_fragment_key);
	__type(value, __u8);
} passed_fragments SEC(".maps");

/* Counters of frames at the vL3 interface. Each frame is counted once; one that is shed (shed.h) is not here. */
enum vl3lb_counter {
	VL3LB_REDIRECTED = 0,
	VL3LB_PASSED = 1,
	VL3LB_DROPPED = 2,	/* the workers', where no socket is yet, or no XDP program */
	VL3LB_COUNTERS = 3,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VL3LB_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void vl3lb_count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

#endif
