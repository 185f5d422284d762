//! Many malformed frames arrive at the interface during operation.

use std::net::SocketAddr;

use serde_json::Value;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::packet_socket::PacketSocket;
use vl3lb_testbed::{Netns, OrPanic, process};
use vl3lb_tests::attachment::{Attachment, Link};
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::malformed::{ETHERNET, Frames, Target};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

const FRAMES: usize = 20_000;

on_attachments!(malformed_frames_are_counted_and_leak_no_memory: every_veth_mode,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_native_mtu_9000 = Attachment::VETH_NATIVE.mtu(9000),
    tun_generic = Attachment::TUN_GENERIC,
    tun_companion = Attachment::TUN_COMPANION,
);

fn malformed_frames_are_counted_and_leak_no_memory(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let client = &topology.clients[0].netns;
    let assert_works = || {
        for family in Family::BOTH {
            let url = format!("http://{}/", SocketAddr::new(family.balancer(), finance::PORT));
            assert_eq!(client::curl_many(client, family, &url, 12).len(), 12);
        }
    };
    let frames_free = || balancer.metrics().find("vl3lb_umem_frames_free", &[]);
    let before = frames_free().expect("a gauge vl3lb_umem_frames_free");
    assert_works();

    let sent = send_malformed_frames(&topology, attachment);
    assert!(
        sent > FRAMES * 9 / 10,
        "the kernel sent {sent} of {FRAMES} frames"
    );

    assert_works();
    let drops = balancer.metrics().all_drops();
    for reason in ["malformed", "not_syn", "unknown_reply", "icmp_unmatched"] {
        assert!(drops.contains_key(reason), "no {reason} among {drops:?}");
    }
    assert!(!drops.contains_key("internal"), "{drops:?}");
    wait::until("all frames to be free again", wait::STEP, || {
        let now = frames_free();
        (now >= Some(before))
            .then_some(())
            .ok_or_else(|| format!("{now:?} of {before} are free"))
    });
}

/// Sends them as close to the balancer as possible; returns the number that the kernel accepted.
fn send_malformed_frames(topology: &Topology, attachment: &Attachment) -> usize {
    let (sender, interface, skip) = match attachment.link {
        // The other end of the balancer's own veth pair.
        Link::Veth { .. } => (
            &topology.router().netns,
            topology.balancer.router_port.as_str(),
            0,
        ),
        // A client's device: the switch forwards packets with a known destination.
        Link::Tun { .. } => (&topology.clients[0].netns, INTERFACE, ETHERNET),
    };
    // Room for all of them, if the reader is slower.
    sender
        .ip(&format!("link set {interface} txqueuelen {FRAMES}"))
        .or_panic();
    let mut frames = Frames::new(target(topology, attachment), 0x5eed);
    sender.run(|| {
        let socket = PacketSocket::sender(interface).or_panic();
        // A full queue refuses some.
        (0..FRAMES)
            .filter(|_| socket.send(&frames.frame()[skip..]).is_ok())
            .count()
    })
}

fn target(topology: &Topology, attachment: &Attachment) -> Target {
    let client = &topology.clients[0];
    Target {
        source_mac: mac(&client.netns).unwrap_or_default(),
        destination_mac: mac(&topology.balancer.netns).unwrap_or_default(),
        sources: Family::BOTH.map(|family| client.address(family)),
        destinations: Family::BOTH.map(Family::balancer),
        service_port: finance::PORT,
        nat_port: 20_000,
        longest: usize::from(attachment.mtu) + ETHERNET,
    }
}

/// The MAC address of the vL3 interface; none on raw IP.
fn mac(netns: &Netns) -> Option<[u8; 6]> {
    let json = process::run(netns.command("ip").args(["-j", "link", "show", INTERFACE])).or_panic();
    let links: Value = serde_json::from_str(&json).expect("ip prints JSON");
    let bytes = links[0]["address"].as_str()?.split(':');
    let bytes: Option<Vec<u8>> = bytes.map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}
