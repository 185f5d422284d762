//! Bulk data arrives byte for byte, in both directions.

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::{Attachment, Link};
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

const LARGE: u64 = 200_000_000;
const MEDIUM: u64 = 40_000_000;

on_attachments!(two_hundred_megabytes_arrive_byte_for_byte: every_veth_mode,
    veth_auto = Attachment::VETH_AUTO,
    tun_generic = Attachment::TUN_GENERIC,
    tun_companion = Attachment::TUN_COMPANION,
    tun_offload_generic = Attachment::TUN_OFFLOAD_GENERIC,
    tun_offload_companion = Attachment::TUN_OFFLOAD_COMPANION,
);

fn two_hundred_megabytes_arrive_byte_for_byte(attachment: &Attachment) {
    transfer(attachment, LARGE, &[Family::V4]);
}

on_attachments!(transfers_are_exact_over_both_families_at_other_mtus_and_queues:
    veth_auto_mtu_9000 = Attachment::VETH_AUTO.mtu(9000),
    veth_native_mtu_9000 = Attachment::VETH_NATIVE.mtu(9000),
    veth_generic_mtu_9000 = Attachment::VETH_GENERIC.mtu(9000),
    veth_companion_mtu_9000 = Attachment::VETH_COMPANION.mtu(9000),
    veth_auto_mtu_1280 = Attachment::VETH_AUTO.mtu(1280),
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_generic_two_queues = Attachment::VETH_GENERIC.two_queues(),
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
    tun_auto_mtu_9000 = Attachment::TUN_AUTO.mtu(9000),
    tun_generic_mtu_9000 = Attachment::TUN_GENERIC.mtu(9000),
    tun_offload_auto_mtu_9000 = Attachment::TUN_OFFLOAD_AUTO.mtu(9000),
    tun_offload_auto = Attachment::TUN_OFFLOAD_AUTO,
    tun_offload_generic_mtu_9000 = Attachment::TUN_OFFLOAD_GENERIC.mtu(9000),
);

fn transfers_are_exact_over_both_families_at_other_mtus_and_queues(attachment: &Attachment) {
    transfer(attachment, MEDIUM, &Family::BOTH);
}

fn transfer(attachment: &Attachment, length: u64, families: &[Family]) {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(attachment)
    });
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let client = &topology.clients[0].netns;
    for family in families {
        client::download(client, family.balancer(), finance::PORT, length);
        client::upload(client, family.balancer(), finance::PORT, length);
    }
    let metrics = balancer.metrics();
    assert_eq!(metrics.drops("internal"), 0.0);
    assert_eq!(metrics.drops("bad_checksum"), 0.0);
    assert_eq!(metrics.drops("malformed"), 0.0);
    if let Link::Tun { offloads: true } = attachment.link {
        let longest = topology.switch().longest_packet();
        assert!(
            longest > usize::from(attachment.mtu),
            "no super-packet, the longest packet has {longest} bytes"
        );
    }
}
