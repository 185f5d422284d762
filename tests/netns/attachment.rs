//! The interface comes, goes and changes under a running balancer, which serves on without a restart.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::netns::must_run;
use vl3lb_tests::payload;
use vl3lb_tests::server::greeting;
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::switch::{Switch, SwitchPort};
use vl3lb_tests::topology::{Family, INTERFACE, Layout, Shape, Topology};
use vl3lb_tests::tun;
use vl3lb_tests::wait;

use crate::finance;

/// Bytes of a download during which the interface changes.
const DOWNLOAD: u64 = 60_000_000;
/// The change comes after this many of them.
const BEFORE_CHANGE: u64 = 8_000_000;

on_attachments!(it_starts_without_its_interface_and_serves_when_it_appears:
    veth_auto = Attachment::VETH_AUTO,
    veth_native = Attachment::VETH_NATIVE,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

fn it_starts_without_its_interface_and_serves_when_it_appears(attachment: &Attachment) {
    let topology = veth(attachment);
    let _servers = finance::http_servers(&topology);
    remove(&topology);
    let mut balancer = Balancer::launch(&topology.balancer, &finance::config(&topology, attachment.mode));
    wait_not_ready(&balancer, "does not exist: waiting for it");
    assert_eq!(balancer.http("/healthz").expect("GET /healthz").0, 200);
    assert_eq!(balancer.metrics().sum("vl3lb_ready", &[]), 0.0);
    let status = status(&balancer);
    let reason = status["notReadyReason"].as_str().unwrap_or_default();
    assert!(reason.contains("waiting for it"), "{status}");
    assert_eq!(
        (&status["mode"], &status["interface"]["index"]),
        (&Value::Null, &Value::Null)
    );
    let text = balancer.cli(&["status"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(
        text.contains("nsm-1 ABSENT") && text.contains("not attached"),
        "{text}"
    );

    add(&topology, &New::default());
    balancer.wait_ready();
    get(&topology);
    let events = balancer.cli_json(&["events"]);
    let codes: Vec<_> = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| &event["code"])
        .collect();
    assert!(codes.iter().any(|code| **code == "attached"), "{codes:?}");
    assert_eq!(balancer.terminate().code(), Some(0), "{}", balancer.log());
}

on_attachments!(a_download_survives_the_replacement_of_the_interface:
    veth_native = Attachment::VETH_NATIVE,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

fn a_download_survives_the_replacement_of_the_interface(attachment: &Attachment) {
    let topology = veth(attachment);
    let _servers = finance::http_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let old = interface(&balancer);
    for family in Family::BOTH {
        download(&topology, family, || {
            remove(&topology);
            wait_not_ready(&balancer, "does not exist");
            add(&topology, &New::default());
        });
    }
    balancer.wait_ready();
    assert_ne!(interface(&balancer)["index"], old["index"]);
    assert_eq!(interface_lost(&balancer), 0.0);
    assert_no_defects(&balancer);
    get(&topology);
    assert_eq!(balancer.terminate().code(), Some(0), "{}", balancer.log());
}

#[test]
fn flows_end_as_interface_lost_when_it_returns_with_another_address() {
    let attachment = &Attachment::VETH_AUTO;
    let topology = veth(attachment);
    let _servers = finance::echo_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let mut streams: Vec<_> = Family::BOTH.map(|family| echo_stream(&topology, family)).into();
    remove(&topology);
    wait_not_ready(&balancer, "does not exist");
    add(
        &topology,
        &New {
            host: 104,
            ..New::default()
        },
    );
    balancer.wait_ready();
    wait::until(
        "the flows of the old addresses to end",
        wait::STEP,
        || match interface_lost(&balancer) {
            2.0 => Ok(()),
            ended => Err(format!("{ended} ended")),
        },
    );
    assert_eq!(balancer.metrics().sum("vl3lb_service_flows", &[]), 0.0);
    let to = SocketAddr::new(address(Family::V4, 104), finance::PORT);
    let host = &topology.clients[0];
    let from = SocketAddr::new(host.address(Family::V4), 0);
    let mut stream = host
        .netns
        .run(|| connect_tcp(from, to, wait::STEP))
        .expect("connect");
    greeting(&mut stream).expect("a server greets at the new address");
    streams.clear();
    assert_no_defects(&balancer);
}

#[test]
fn downloads_survive_new_interfaces_with_other_mtus_and_queues() {
    let attachment = &Attachment::VETH_AUTO;
    let topology = veth(attachment);
    let _servers = finance::http_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    for new in [
        New {
            queues: 2,
            ..New::default()
        },
        New {
            mtu: 9000,
            ..New::default()
        },
        New {
            queues: 4,
            mtu: 4000,
            ..New::default()
        },
        New::default(),
    ] {
        download(&topology, Family::V4, || {
            remove(&topology);
            add(&topology, &new);
        });
        balancer.wait_ready();
        assert_eq!(interface(&balancer)["mtu"], new.mtu, "{new:?}");
        get(&topology);
    }
    assert_no_defects(&balancer);
}

on_attachments!(the_mtu_and_the_mac_address_change_under_a_download:
    veth_native = Attachment::VETH_NATIVE,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

fn the_mtu_and_the_mac_address_change_under_a_download(attachment: &Attachment) {
    let topology = veth(attachment);
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let netns = &topology.balancer.netns;
    download(&topology, Family::V4, || {
        netns.ip(&format!("link set {INTERFACE} address 02:00:00:00:00:77"));
    });
    get(&topology);
    download(&topology, Family::V4, || {
        netns.ip(&format!("link set {INTERFACE} mtu 3000"))
    });
    wait::until("the new MTU in the status", wait::STEP, || {
        let mtu = interface(&balancer)["mtu"].clone();
        (mtu == 3000).then_some(()).ok_or_else(|| mtu.to_string())
    });
    get(&topology);
    assert_no_defects(&balancer);
    assert_eq!(interface_lost(&balancer), 0.0);
}

#[test]
fn a_download_survives_the_way_from_ethernet_to_raw_ip_and_back() {
    let attachment = &Attachment::VETH_AUTO;
    let topology = Topology::build(&Shape {
        layout: Layout::Routed,
        servers: 2,
        ..Shape::of(attachment)
    });
    let _servers = finance::http_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let mut link = None;
    download(&topology, Family::V4, || {
        remove(&topology);
        link = Some(tun_link(&topology));
        // There is no MAC address to learn: packets come as soon as the other end is connected.
        wait_attached(&balancer, "tun");
        connect_tun(&topology);
    });
    balancer.wait_ready();
    let now = interface(&balancer);
    assert_eq!((&now["link"], &now["kind"]), (&"raw-ip".into(), &"tun".into()));
    get(&topology);
    download(&topology, Family::V4, || {
        drop(link.take());
        wait_not_ready(&balancer, "does not exist");
        add_routed(&topology, &balancer);
    });
    balancer.wait_ready();
    assert_eq!(interface(&balancer)["link"], "ethernet");
    get(&topology);
    assert_eq!(interface_lost(&balancer), 0.0);
    assert_no_defects(&balancer);
}

#[test]
fn a_download_survives_a_rename_a_down_and_a_lost_carrier() {
    let attachment = &Attachment::VETH_AUTO;
    let topology = veth(attachment);
    let _servers = finance::http_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let netns = &topology.balancer.netns;
    download(&topology, Family::V4, || {
        wait_quiet(&balancer);
        // Most kernels rename an interface only while it is down.
        netns.ip(&format!(
            "link set {INTERFACE} down\nlink set {INTERFACE} name away"
        ));
        wait_not_ready(&balancer, "does not exist");
        netns.ip(&format!(
            "link set away name {INTERFACE}\nlink set {INTERFACE} up"
        ));
    });
    balancer.wait_ready();
    download(&topology, Family::V4, || {
        wait_quiet(&balancer);
        netns.ip(&format!("link set {INTERFACE} down"));
        wait_not_ready(&balancer, "is down");
        assert_eq!(balancer.http("/healthz").expect("GET /healthz").0, 200);
        netns.ip(&format!("link set {INTERFACE} up"));
    });
    balancer.wait_ready();
    let port = &topology.balancer.router_port;
    download(&topology, Family::V4, || {
        topology.router().ip(&format!("link set {port} down"));
        wait_not_ready(&balancer, "has no carrier");
        assert_eq!(balancer.http("/healthz").expect("GET /healthz").0, 200);
        topology.router().ip(&format!("link set {port} up"));
    });
    balancer.wait_ready();
    get_at(&topology, Family::V4.balancer());
    assert_no_defects(&balancer);
}

#[test]
fn addresses_come_and_go_live() {
    let attachment = &Attachment::VETH_AUTO;
    let topology = veth(attachment);
    let _servers = finance::echo_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let netns = &topology.balancer.netns;
    let [old, new] = [103, 104].map(|host| address(Family::V4, host));
    let mut kept = echo_stream(&topology, Family::V6);
    let _ended = echo_stream(&topology, Family::V4);
    netns.ip(&format!("addr add {new}/24 dev {INTERFACE}"));
    wait_addresses(&balancer, &[old, new, Family::V6.balancer()]);
    netns.ip(&format!("addr del {old}/24 dev {INTERFACE}"));
    // The kernel removes the secondary address with the primary one.
    netns.ip(&format!("addr replace {new}/24 dev {INTERFACE}"));
    wait_addresses(&balancer, &[new, Family::V6.balancer()]);
    wait::until(
        "the flow of the removed address to end",
        wait::STEP,
        || match interface_lost(&balancer) {
            1.0 => Ok(()),
            ended => Err(format!("{ended} ended")),
        },
    );
    kept.write_all(b"on").expect("write");
    kept.read_exact(&mut [0; 2])
        .expect("the echo of the other address's flow");
    balancer.wait_ready();
    let host = &topology.clients[0];
    let from = SocketAddr::new(host.address(Family::V4), 0);
    let to = SocketAddr::new(new, finance::PORT);
    let mut stream = host
        .netns
        .run(|| connect_tcp(from, to, wait::STEP))
        .expect("connect");
    greeting(&mut stream).expect("a server greets at the new address");

    netns.ip(&format!("addr flush dev {INTERFACE}"));
    wait_not_ready(&balancer, "has no address");
}

/// A network of veth pairs on one segment.
fn veth(attachment: &Attachment) -> Topology {
    Topology::build(&Shape {
        servers: 2,
        ..Shape::of(attachment)
    })
}

/// A veth pair for the balancer in place of the one that was removed.
#[derive(Debug)]
struct New {
    queues: u8,
    mtu: u16,
    /// The last part of its addresses.
    host: u8,
}

impl Default for New {
    fn default() -> Self {
        Self {
            queues: 1,
            mtu: 1500,
            host: 103,
        }
    }
}

fn remove(topology: &Topology) {
    let port = &topology.balancer.router_port;
    topology.router().ip(&format!("link del {port}"));
}

fn add_pair(topology: &Topology, queues: u8, mtu: u16) {
    let (port, netns) = (&topology.balancer.router_port, topology.balancer.netns.name());
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    topology.router().ip(&format!(
        "link add {port} mtu {mtu} {queues} type veth peer {INTERFACE} mtu {mtu} {queues} netns {netns}
         link set {port} up"
    ));
}

fn add(topology: &Topology, new: &New) {
    add_pair(topology, new.queues, new.mtu);
    let port = &topology.balancer.router_port;
    topology.router().ip(&format!("link set {port} master bridge"));
    let [v4, v6] = Family::BOTH.map(|family| address(family, new.host));
    topology.balancer.netns.ip(&format!(
        "link set {INTERFACE} up
         addr add {v4}/24 dev {INTERFACE}
         addr add {v6}/64 dev {INTERFACE} nodad"
    ));
}

/// As [`add`], for a network whose pods are behind router ports.
fn add_routed(topology: &Topology, balancer: &Balancer<'_>) {
    add_pair(topology, 1, 1500);
    let port = &topology.balancer.router_port;
    let [gateway4, gateway6] = Family::BOTH.map(Family::gateway);
    let [own4, own6] = Family::BOTH.map(Family::balancer);
    topology.balancer.netns.ip(&format!(
        "link set {INTERFACE} up
         addr add {own4}/32 dev {INTERFACE}
         addr add {own6}/128 dev {INTERFACE} nodad
         route add {gateway4} dev {INTERFACE} scope link
         route add default via {gateway4} dev {INTERFACE}
         route add {gateway6} dev {INTERFACE}
         route add default via {gateway6} dev {INTERFACE}"
    ));
    // A router resolves the balancer on its own, and until it is attached the kernel resets the flows' packets.
    wait_attached(balancer, "veth");
    topology.router().ip(&format!(
        "addr add {gateway4}/32 dev {port}
         addr add {gateway6}/128 dev {port} nodad
         route add {own4}/32 dev {port}
         route add {own6}/128 dev {port}"
    ));
}

/// A pair of TUN devices between the router and the balancer. Dropping it removes both.
fn tun_link(topology: &Topology) -> Switch {
    let (router, netns) = (topology.router(), &topology.balancer.netns);
    let [own4, own6] = Family::BOTH.map(Family::balancer);
    let near = SwitchPort {
        device: tun::create(netns, INTERFACE, false),
        addresses: vec![own4, own6],
    };
    let far = SwitchPort {
        device: tun::create(router, "to-tun", false),
        addresses: topology
            .clients
            .iter()
            .chain(&topology.servers)
            .flat_map(|host| Family::BOTH.map(|family| host.address(family)))
            .collect(),
    };
    netns.ip(&format!(
        "link set {INTERFACE} mtu 1500 up
         addr add {own4}/32 dev {INTERFACE}
         addr add {own6}/128 dev {INTERFACE} nodad
         route add 172.16.1.0/24 dev {INTERFACE}
         route add 2001:db8::/64 dev {INTERFACE}"
    ));
    Switch::start(vec![near, far], false)
}

/// Leads the router's packets for the balancer into the TUN device.
fn connect_tun(topology: &Topology) {
    let [own4, own6] = Family::BOTH.map(Family::balancer);
    topology.router().ip(&format!(
        "link set to-tun mtu 1500 up
         route add {own4}/32 dev to-tun
         route add {own6}/128 dev to-tun"
    ));
}

fn address(family: Family, host: u8) -> IpAddr {
    match family.balancer() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [a, b, c, host].into()
        }
        IpAddr::V6(v6) => {
            let mut segments = v6.segments();
            segments[7] = host.into();
            segments.into()
        }
    }
}

/// Downloads through the balancer, and changes something in the middle. All bytes must arrive.
fn download(topology: &Topology, family: Family, change: impl FnOnce()) {
    let host = &topology.clients[0];
    let (from, to) = (
        SocketAddr::new(host.address(family), 0),
        SocketAddr::new(family.balancer(), finance::PORT),
    );
    let mut stream = host
        .netns
        .run(|| connect_tcp(from, to, wait::STEP))
        .expect("connect");
    stream
        .set_read_timeout(Some(2 * wait::STEP))
        .expect("set a time-out");
    write!(
        stream,
        "GET /bytes/{DOWNLOAD} HTTP/1.1\r\nHost: finance\r\nConnection: close\r\n\r\n"
    )
    .expect("send the request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("read the head of the answer");
        head.extend(byte);
    }
    let mut body = Interrupted {
        stream,
        left: BEFORE_CHANGE,
        change: Some(change),
    };
    let got = payload::hash(&mut body, DOWNLOAD).expect("read the body");
    assert_eq!(got, (DOWNLOAD, payload::sha256(DOWNLOAD)));
}

/// A stream that changes something after some bytes.
struct Interrupted<F> {
    stream: TcpStream,
    left: u64,
    change: Option<F>,
}

impl<F: FnOnce()> Read for Interrupted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        if self.left == 0
            && let Some(change) = self.change.take()
        {
            change();
        }
        Ok(read)
    }
}

fn echo_stream(topology: &Topology, family: Family) -> TcpStream {
    let host = &topology.clients[0];
    let (from, to) = (
        SocketAddr::new(host.address(family), 0),
        SocketAddr::new(family.balancer(), finance::PORT),
    );
    let mut stream = host
        .netns
        .run(|| connect_tcp(from, to, wait::STEP))
        .expect("connect");
    stream.set_read_timeout(Some(wait::STEP)).expect("set a time-out");
    greeting(&mut stream).expect("a server greets");
    stream
}

fn get(topology: &Topology) {
    for family in Family::BOTH {
        get_at(topology, family.balancer());
    }
}

fn get_at(topology: &Topology, address: IpAddr) {
    let url = client::url(address, finance::PORT, "/");
    let netns = &topology.clients[0].netns;
    let answer = must_run(netns.command("curl").args(["-sS", "--max-time", "20", &url]));
    assert!(answer.starts_with("Hello!"), "{answer}");
}

fn wait_not_ready(balancer: &Balancer<'_>, reason: &str) {
    wait::until(
        &format!("not to be ready: {reason}"),
        wait::STEP,
        || match balancer.http("/readyz") {
            Ok((503, body)) if body.contains(reason) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

/// Waits until the client's window is full and no packet is under way. A veth device that goes down takes its XDP
/// program off before its queues, and the kernel resets the flows of packets that it finds in them.
fn wait_quiet(balancer: &Balancer<'_>) {
    let received = || balancer.metrics().sum("vl3lb_worker_received_packets_total", &[]);
    let mut last = received();
    wait::until("no packet to come", wait::STEP, || {
        std::thread::sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut last, received());
        (before == last)
            .then_some(())
            .ok_or_else(|| format!("{before} packets, then {last}"))
    });
}

fn wait_attached(balancer: &Balancer<'_>, kind: &str) {
    wait::until("the balancer to attach", wait::STEP, || {
        let found = interface(balancer)["kind"].clone();
        (found == kind).then_some(()).ok_or_else(|| found.to_string())
    });
}

fn wait_addresses(balancer: &Balancer<'_>, addresses: &[IpAddr]) {
    wait::until("the addresses to be in use", wait::STEP, || {
        let found = interface(balancer)["addresses"].clone();
        let want: Vec<Value> = addresses
            .iter()
            .map(|address| address.to_string().into())
            .collect();
        (found == Value::from(want))
            .then_some(())
            .ok_or_else(|| found.to_string())
    });
}

fn status(balancer: &Balancer<'_>) -> Value {
    balancer.cli_json(&["status"])["items"][0].clone()
}

fn interface(balancer: &Balancer<'_>) -> Value {
    status(balancer)["interface"].clone()
}

fn interface_lost(balancer: &Balancer<'_>) -> f64 {
    let metrics = balancer.metrics();
    metrics.sum("vl3lb_service_flows_closed_total", &[("cause", "interface_lost")])
}

fn assert_no_defects(balancer: &Balancer<'_>) {
    let metrics = balancer.metrics();
    for reason in ["internal", "bad_checksum", "malformed"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
    let log = balancer.log();
    assert!(!log.contains("please report"), "{log}");
}
