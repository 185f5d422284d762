// SPDX-License-Identifier: Apache-2.0
/*
 * The steer programs: what is the balancer's goes to AF_XDP sockets, all else to the kernel.
 *
 *   steer_xdp	on the vL3 interface, native or generic: straight to the queue's socket.
 *   steer_tc	on the vL3 interface, companion mode: to the near end of the companion pair, where
 *		the kernel cuts super-packets, on the way to the queue of the flow's owner.
 *   steer_far	on the far end of the companion pair: every frame to its queue's socket.
 *
 * Needs Linux 5.18 (bpf_xdp_load_bytes, multi-buffer XDP). No helper here is GPL-only.
 */
#include <stddef.h>
#include <stdbool.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "classify.h"

SEC("xdp.frags")
int steer_xdp(struct xdp_md *frame)
{
	long action = XDP_PASS;

	if (vl3lb_classify(frame, false) != VL3LB_NOT_OURS)
		/* A queue without a socket: the kernel gets the frame. */
		action = bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_PASS);
	vl3lb_count(action == XDP_REDIRECT ? VL3LB_REDIRECTED : VL3LB_PASSED);
	return action;
}

/* Puts an Ethernet header before a packet of a raw-IP link; only its type matters. */
static __always_inline long vl3lb_push_ethernet(struct __sk_buff *packet)
{
	__be16 type = bpf_htons(vl3lb_raw_version(packet, true) == 4 ? ETH_P_IP : ETH_P_IPV6);

	if (bpf_skb_change_head(packet, ETH_HLEN, 0))
		return -1;
	return bpf_skb_store_bytes(packet, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0);
}

SEC("classifier")
int steer_tc(struct __sk_buff *packet)
{
	int owner = VL3LB_NOT_OURS;

	/* A VLAN's packet whose tag is kept beside it. */
	if (!packet->vlan_present)
		owner = vl3lb_classify(packet, true);
	if (owner == VL3LB_NOT_OURS) {
		vl3lb_count(VL3LB_PASSED);
		return TC_ACT_UNSPEC;	/* the next program, in the end the kernel */
	}
	/*
	 * Out of memory: dropped, and counted by the kernel as dropped at ingress. Passing it would
	 * have the kernel answer with a reset.
	 */
	if (raw_ip && vl3lb_push_ethernet(packet))
		return TC_ACT_SHOT;
	/* Read as a recorded receive queue, 0 for none, when the near end picks its transmit queue. */
	packet->queue_mapping = owner + 1;
	vl3lb_count(VL3LB_REDIRECTED);
	return bpf_redirect(near_index, 0);
}

SEC("xdp.frags")
int steer_far(struct xdp_md *frame)
{
	if (raw_ip && bpf_xdp_adjust_head(frame, ETH_HLEN))
		return XDP_DROP;
	/* Only steer_tc sends here, so no frame is the kernel's. */
	return bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Apache-2.0";
