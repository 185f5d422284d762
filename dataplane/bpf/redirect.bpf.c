// SPDX-License-Identifier: Apache-2.0
/*
 * redirect_back sends each IP packet of an Ethernet link back out of the interface that it came in by, with the MAC
 * addresses swapped, and does nothing else: the least that a tc program between two links can do. For measurements.
 */
#include <stdbool.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("classifier")
int redirect_back(struct __sk_buff *packet)
{
	struct ethhdr *ethernet = (void *)(long)packet->data;
	__u8 mac[ETH_ALEN];

	if (packet->protocol != bpf_htons(ETH_P_IP) && packet->protocol != bpf_htons(ETH_P_IPV6))
		return TC_ACT_UNSPEC;
	if ((void *)(ethernet + 1) > (void *)(long)packet->data_end)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(mac, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, mac, ETH_ALEN);
	return bpf_redirect(packet->ifindex, 0);
}

char LICENSE[] SEC("license") = "Apache-2.0";
