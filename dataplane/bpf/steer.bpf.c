// SPDX-License-Identifier: Apache-2.0
/*
 * The steer programs redirect the balancer's packets to AF_XDP sockets and pass all others to the kernel.
 *
 *   steer_xdp	on the vL3 interface, native or generic mode: to the socket of the receive queue. In native mode,
 *		packets of flows that a worker has put into the fast path are translated and sent here
 *		(fastpath.h).
 *   steer_tc	on the vL3 interface, companion mode: to the near end of the companion pair and the
 *		queue of the flow's owner. The kernel segments super-packets on the way. The fast path is here, too.
 *		In native mode and while one attachment replaces another: drops what is the workers' and comes by.
 *   steer_far	on the far end of the companion pair: every frame to the socket of its queue.
 *   steer_lo	on the loopback interface, egress: packets of local clients to the near end of the pair for them (local.h).
 *   steer_local	on the far end of that pair: every frame to its socket.
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
#include "fastpath.h"
#include "local.h"

/* Functions of their own: their variables and those of the fast path, which runs before them, share the stack. */
static __attribute__((noinline)) int vl3lb_classify_xdp(struct xdp_md *frame)
{
	return vl3lb_classify(frame, false);
}

static __attribute__((noinline)) int vl3lb_classify_skb(struct __sk_buff *packet)
{
	return vl3lb_classify(packet, true);
}

SEC("xdp.frags")
int steer_xdp(struct xdp_md *frame)
{
	__u32 counter = VL3LB_PASSED;
	long action = XDP_PASS;
	int owner;

	if (vl3lb_fast(frame, false) == VL3LB_FAST_TAKEN)
		return XDP_TX;
	owner = vl3lb_classify_xdp(frame);
	if (owner == VL3LB_SHED)
		return XDP_DROP;
	if (owner != VL3LB_NOT_OURS) {
		/*
		 * A queue that was added a moment ago has no socket yet. The frame is dropped: if it were passed, the kernel
		 * would answer with a TCP reset.
		 */
		action = bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_DROP);
		counter = action == XDP_REDIRECT ? VL3LB_REDIRECTED : VL3LB_DROPPED;
	}
	vl3lb_count(counter);
	return action;
}

/* Prepends an Ethernet header to a packet of a raw-IP link. Only its type field is used. */
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

	/* A packet of a VLAN: the tag is in the metadata of the skb. */
	if (!packet->vlan_present) {
		if (near_index) {
			int result = vl3lb_fast(packet, true);

			if (result == VL3LB_FAST_TAKEN)
				return bpf_redirect(packet->ifindex, 0);
			if (result == VL3LB_FAST_LOST)
				return TC_ACT_SHOT;
		}
		owner = vl3lb_classify_skb(packet);
	}
	if (owner == VL3LB_NOT_OURS) {
		/* Without a pair, the XDP program has counted it. */
		if (near_index)
			vl3lb_count(VL3LB_PASSED);
		return TC_ACT_UNSPEC;	/* continue with the next program, finally the kernel */
	}
	/*
	 * Without a pair, the XDP program has not run: it is being replaced, veth was set down (which removes it before the
	 * queues are empty), or the queue is new, for which veth runs none. The kernel would answer with a TCP reset.
	 */
	if (!near_index && owner != VL3LB_SHED)
		vl3lb_count(VL3LB_DROPPED);
	if (owner == VL3LB_SHED || !near_index)
		return TC_ACT_SHOT;
	/*
	 * Out of memory: the packet is dropped, and the kernel counts the drop at ingress. If it were
	 * passed, the kernel would answer with a TCP reset.
	 */
	if (raw_ip && vl3lb_push_ethernet(packet))
		return TC_ACT_SHOT;
	/* The near end uses it to select its transmit queue: a recorded receive queue plus one, 0 for none. */
	packet->queue_mapping = owner + 1;
	vl3lb_count(VL3LB_REDIRECTED);
	return bpf_redirect(near_index, 0);
}

SEC("xdp.frags")
int steer_far(struct xdp_md *frame)
{
	if (raw_ip && bpf_xdp_adjust_head(frame, ETH_HLEN))
		return XDP_DROP;
	/* Only steer_tc sends to this device, so no frame belongs to the kernel. */
	return bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_DROP);
}

SEC("classifier")
int steer_lo(struct __sk_buff *packet)
{
	const struct vl3lb_config *settings;
	__u32 zero = 0;

	settings = bpf_map_lookup_elem(&config, &zero);
	if (!settings || !settings->local_near || !vl3lb_is_local_request(packet))
		return TC_ACT_UNSPEC;
	return bpf_redirect(settings->local_near, 0);
}

SEC("xdp.frags")
int steer_local(struct xdp_md *frame)
{
	/* The loopback interface has Ethernet headers, of zeros. */
	if (raw_ip && bpf_xdp_adjust_head(frame, ETH_HLEN))
		return XDP_DROP;
	/* Only steer_lo sends to this device, so no frame belongs to the kernel. */
	return bpf_redirect_map(&local_sockets, 0, XDP_DROP);
}

char LICENSE[] SEC("license") = "Apache-2.0";
