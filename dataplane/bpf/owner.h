/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Computes the worker that owns a flow, like common/src/hash.rs (OwnerKey, reduce) and
 * common/src/snapshot.rs (NatPorts::owner). A test compiles this file for the host and compares them.
 */
#ifndef VL3LB_OWNER_H
#define VL3LB_OWNER_H

#include <linux/types.h>

/* Secret numbers of the owner hash. */
#define VL3LB_OWNER_KEY_WORDS 7

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define vl3lb_be32(word) __builtin_bswap32(word)
#else
#define vl3lb_be32(word) (word)
#endif

/* Settings that may change while the programs run. Layout of the map `config`. */
struct vl3lb_config {
	/* The range of NAT ports and its division among the workers. */
	__u16 nat_first;
	__u16 nat_last;
	__u16 workers;
	__u8 own_mac[6];	/* Ethernet: the interface's MAC address */
	__u32 local_near;	/* index of the near end of the pair for local clients, 0 without one */
	__u64 owner_key[VL3LB_OWNER_KEY_WORDS];
};
_Static_assert(sizeof(struct vl3lb_config) == 72, "written by Rust as 36 u16");

/*
 * A multilinear hash: without the key nobody can choose inputs that meet. `client` is in network
 * order, the ports are in host order.
 */
static inline __attribute__((always_inline)) __u64
vl3lb_tuple_hash(const struct vl3lb_config *config, const __be32 client[4], __u16 client_port,
		 __u16 service_port, __u8 protocol)
{
	const __u64 *key = config->owner_key;
	__u64 sum = key[0];

	sum += key[1] * vl3lb_be32(client[0]);
	sum += key[2] * vl3lb_be32(client[1]);
	sum += key[3] * vl3lb_be32(client[2]);
	sum += key[4] * vl3lb_be32(client[3]);
	sum += key[5] * ((__u32)client_port << 16 | service_port);
	sum += key[6] * protocol;
	/* Neighbouring clients and ports, whose sums are equally far apart, are spread too. */
	return (sum ^ sum >> 32) * 0x9e3779b97f4a7c15ULL;
}

/* Its upper half selects the worker of a flow. */
static inline __attribute__((always_inline)) __u32
vl3lb_owner_hash(const struct vl3lb_config *config, const __be32 client[4], __u16 client_port,
		 __u16 service_port, __u8 protocol)
{
	return vl3lb_tuple_hash(config, client, client_port, service_port, protocol) >> 32;
}

/* Maps a hash evenly to 0..n. */
static inline __attribute__((always_inline)) __u32 vl3lb_reduce(__u32 hash, __u16 n)
{
	return (__u64)hash * n >> 32;
}

static inline __attribute__((always_inline)) int
vl3lb_is_nat_port(const struct vl3lb_config *config, __u16 port)
{
	return config->nat_first <= port && port <= config->nat_last;
}

/* The worker that allocates NAT port `port`. */
static inline __attribute__((always_inline)) __u32
vl3lb_nat_port_owner(const struct vl3lb_config *config, __u16 port)
{
	if (!config->workers)
		return 0;
	return (__u32)(port - config->nat_first) % config->workers;
}

#endif
