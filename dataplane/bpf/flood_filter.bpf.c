// SPDX-License-Identifier: Apache-2.0
/*
 * drop_flood drops IPv4 packets from 10.64.0.0/12, from which floods of measurements come, and nothing else: the least
 * that an XDP program can do about them. For measurements.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FLOOD_NETWORK bpf_htonl(0x0a400000)
#define FLOOD_MASK bpf_htonl(0xfff00000)

SEC("xdp")
int drop_flood(struct xdp_md *packet)
{
	const struct ethhdr *ethernet = (void *)(long)packet->data;
	const struct iphdr *ip = (void *)(ethernet + 1);

	if ((void *)(ip + 1) > (void *)(long)packet->data_end)
		return XDP_PASS;
	if (ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	return (ip->saddr & FLOOD_MASK) == FLOOD_NETWORK ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Apache-2.0";
