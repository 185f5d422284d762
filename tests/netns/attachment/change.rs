//! MTU, MAC address, addresses, name, state and carrier of the interface change while it is attached.

use std::io::{Read, Write};
use std::net::IpAddr;

use serde_json::Value;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::{Netns, OrPanic, process};
use vl3lb_tests::attachment::{Attachment, Link};
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::Topology;
use vl3lb_tests::{client, wait};

use super::{
    assert_no_defects, download, echo, get, get_at, http, interface, interface_lost, two_servers,
    wait_attached, wait_interface_lost, wait_not_ready,
};
use crate::finance::{self, PORT, http_servers};

on_attachments!(the_mtu_and_the_mac_address_change_under_a_download: every_veth_mode);

fn the_mtu_and_the_mac_address_change_under_a_download(attachment: &Attachment) {
    let testbed = http(attachment);
    let (topology, balancer) = (&testbed.topology, &testbed.balancer);
    let ip = |lines: &str| topology.balancer.netns.ip(lines).or_panic();
    download(topology, Family::V4, || {
        ip(&format!("link set {INTERFACE} address 02:aa:bb:cc:dd:01"));
    });
    get(topology);
    download(topology, Family::V4, || {
        ip(&format!("link set {INTERFACE} mtu 3000"))
    });
    wait::until("the new MTU in the status", wait::STEP, || {
        let mtu = interface(balancer)["mtu"].clone();
        (mtu == 3000).then_some(()).ok_or(mtu)
    });
    get(topology);
    assert_no_defects(balancer);
    assert_eq!(interface_lost(balancer), 0.0);
}

/// Connections after the number of queues has changed.
const CONNECTIONS: usize = 20;

// The companion pair has queues of its own. In the other modes each queue needs a socket.
on_attachments!(receive_queues_are_added_under_a_download:
    veth_auto = Attachment::VETH_AUTO.two_queues(),
    veth_companion = Attachment::VETH_COMPANION.two_queues(),
    veth_native = Attachment::VETH_NATIVE.two_queues(),
    veth_generic = Attachment::VETH_GENERIC.two_queues(),
);

fn receive_queues_are_added_under_a_download(attachment: &Attachment) {
    let shape = two_servers(attachment);
    let topology = Topology::build(&shape);
    let _servers = http_servers(&topology);
    let own = &topology.balancer;
    let Link::Veth { queues } = attachment.link else {
        panic!("the link has queues")
    };
    // The other end sends into as many, once they are there.
    let set_queues = |count: u32| {
        set_channels(&own.netns, INTERFACE, "rx", count).expect("more receive queues");
        set_channels(&topology.router().netns, &own.router_port, "tx", count).expect("more transmit queues");
    };
    set_channels(&topology.router().netns, &own.router_port, "tx", 1).expect("one transmit queue");
    set_channels(&own.netns, INTERFACE, "rx", 1).expect("one receive queue");
    let balancer = Balancer::start(own, &finance::config(&topology, attachment.mode));
    download(&topology, Family::V4, || set_queues(queues));
    connect_often(&topology);
    if ["native", "generic"].contains(&attachment.mode) {
        wait::until("another attachment", wait::STEP, || {
            let events = balancer.cli_json(&["events"]);
            let events = events["items"].as_array().expect("a list");
            let attached = events.iter().filter(|event| event["code"] == "attached").count();
            (attached > 1).then_some(()).ok_or(attached)
        });
    }
    let dropped = || {
        let metrics = balancer.metrics();
        metrics.sum("vl3lb_steer_packets_total", &[("action", "drop")])
    };
    let before = dropped();
    connect_often(&topology);
    assert_eq!(dropped(), before, "each queue has a socket");
    // And so have clients beside the balancer.
    for family in Family::BOTH {
        let answer = client::curl(&own.netns, &client::url(family.balancer(), PORT, "/"));
        assert!(answer.starts_with("Hello!"), "{family:?}: {answer}");
    }
    assert_no_defects(&balancer);
    assert_eq!(interface_lost(&balancer), 0.0);
}

on_attachments!(the_kernel_takes_no_receive_queue_from_its_socket:
    veth_companion = Attachment::VETH_COMPANION.two_queues(),
    veth_native = Attachment::VETH_NATIVE.two_queues(),
    veth_generic = Attachment::VETH_GENERIC.two_queues(),
);

/// In companion mode the sockets that send are at the interface's queues.
fn the_kernel_takes_no_receive_queue_from_its_socket(attachment: &Attachment) {
    let shape = two_servers(attachment);
    let topology = Topology::build(&shape);
    let _servers = http_servers(&topology);
    let own = &topology.balancer;
    let balancer = Balancer::start(own, &finance::config(&topology, attachment.mode));
    download(&topology, Family::V4, || {
        set_channels(&topology.router().netns, &own.router_port, "tx", 1).expect("one transmit queue");
        let error = set_channels(&own.netns, INTERFACE, "rx", 1).expect_err("its socket is open");
        assert!(error.contains("AF_XDP sockets"), "{error}");
    });
    connect_often(&topology);
    assert_no_defects(&balancer);
    assert_eq!(interface_lost(&balancer), 0.0);
}

/// Sets the number of queues of one direction.
fn set_channels(netns: &Netns, interface: &str, direction: &str, count: u32) -> Result<(), String> {
    let mut ethtool = netns.command("ethtool");
    let set = ethtool.args(["-L", interface, direction, &count.to_string()]);
    process::run(set).map(drop).map_err(|error| error.to_string())
}

fn connect_often(topology: &Topology) {
    for number in 0..CONNECTIONS {
        let family = Family::BOTH[number % 2];
        let answer = client::curl(
            &topology.clients[0].netns,
            &client::url(family.balancer(), PORT, "/"),
        );
        assert!(answer.starts_with("Hello!"), "connection {number}: {answer}");
    }
}

#[test]
fn a_download_survives_a_rename_a_down_and_a_lost_carrier() {
    let mut testbed = http(&Attachment::VETH_AUTO);
    let (topology, balancer) = (&testbed.topology, &mut testbed.balancer);
    let ip = |lines: &str| topology.balancer.netns.ip(lines).or_panic();
    let port = &topology.balancer.router_port;
    let set_port = |state: &str| {
        topology
            .router()
            .netns
            .ip(&format!("link set {port} {state}"))
            .or_panic()
    };
    // Until the balancer has attached again, and while a veth device goes down, the kernel resets the flows of packets that
    // come; so none may come.
    let cut_off = |balancer: &Balancer, change: &dyn Fn()| {
        set_port("down");
        wait_not_ready(balancer, "has no carrier");
        change();
        wait_not_ready(balancer, "has no carrier");
        wait_attached(balancer, "veth");
        set_port("up");
    };
    download(topology, Family::V4, || {
        cut_off(balancer, &|| {
            // Most kernels rename an interface only while it is down.
            ip(&format!(
                "link set {INTERFACE} down\nlink set {INTERFACE} name away"
            ));
            wait_not_ready(balancer, "does not exist");
            ip(&format!(
                "link set away name {INTERFACE}\nlink set {INTERFACE} up"
            ));
        });
    });
    balancer.wait_ready();
    download(topology, Family::V4, || {
        cut_off(balancer, &|| {
            ip(&format!("link set {INTERFACE} down"));
            wait_not_ready(balancer, "is down");
            assert_eq!(balancer.http("/healthz").expect("GET /healthz").0, 200);
            ip(&format!("link set {INTERFACE} up"));
        });
    });
    balancer.wait_ready();
    download(topology, Family::V4, || {
        set_port("down");
        wait_not_ready(balancer, "has no carrier");
        assert_eq!(balancer.http("/healthz").expect("GET /healthz").0, 200);
        set_port("up");
    });
    balancer.wait_ready();
    get_at(topology, Family::V4.balancer());
    assert_no_defects(balancer);
}

#[test]
fn addresses_are_added_and_removed_live() {
    let mut testbed = echo(&Attachment::VETH_AUTO);
    let (topology, balancer) = (&testbed.topology, &mut testbed.balancer);
    let ip = |lines: &str| topology.balancer.netns.ip(lines).or_panic();
    let [old, new] = [103, 104].map(|number| Family::V4.address(number));
    let connect = |address| {
        let mut stream = client::tcp(&topology.clients[0], (address, PORT).into());
        greeting(&mut stream).expect("a server greets");
        stream
    };
    let mut kept = connect(Family::V6.balancer());
    let _ended = connect(old);
    ip(&format!("addr add {new}/24 dev {INTERFACE}"));
    wait_addresses(balancer, &[old, new, Family::V6.balancer()]);
    ip(&format!("addr del {old}/24 dev {INTERFACE}"));
    // The kernel removes the secondary address with the primary one.
    ip(&format!("addr replace {new}/24 dev {INTERFACE}"));
    wait_addresses(balancer, &[new, Family::V6.balancer()]);
    wait_interface_lost(balancer, 1.0);
    kept.write_all(b"on").expect("write");
    kept.read_exact(&mut [0; 2])
        .expect("the echo of the other address's flow");
    balancer.wait_ready();
    connect(new);

    ip(&format!("addr flush dev {INTERFACE}"));
    wait_not_ready(balancer, "has no address");
}

fn wait_addresses(balancer: &Balancer, addresses: &[IpAddr]) {
    let expected: Vec<Value> = addresses
        .iter()
        .map(|address| address.to_string().into())
        .collect();
    let expected = Value::from(expected);
    wait::until("the addresses to be in use", wait::STEP, || {
        let found = interface(balancer)["addresses"].clone();
        (found == expected).then_some(()).ok_or(found)
    });
}
