//! The testbed itself, without a balancer: its links carry what tests send, and nothing outlives a test.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;

use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Layout;
use vl3lb_testbed::tun::{self, TunKind};
use vl3lb_testbed::veth::{self, VethEnd};
use vl3lb_testbed::{Netns, OrPanic, process};
use vl3lb_tests::attachment::{Attachment, Link};
use vl3lb_tests::client;
use vl3lb_tests::server::{TcpServer, UdpServer};
use vl3lb_tests::socket::{receive, set_udp_segment};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{TARGET_PORT, http_servers};

on_attachments!(peers_reach_each_other_without_a_balancer:
    veth = Attachment::VETH_AUTO,
    veth_mtu_9000 = Attachment::VETH_AUTO.mtu(9000),
    veth_two_queues = Attachment::VETH_AUTO.two_queues(),
    tun = Attachment::TUN_AUTO,
    tun_offload = Attachment::TUN_OFFLOAD_AUTO,
    tun_offload_mtu_9000 = Attachment::TUN_OFFLOAD_AUTO.mtu(9000),
);

fn peers_reach_each_other_without_a_balancer(attachment: &Attachment) {
    transfer(&Shape::of(attachment));
}

#[test]
fn peers_reach_each_other_through_a_router() {
    transfer(&Shape {
        layout: Layout::Routed,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
}

fn transfer(shape: &Shape) {
    let topology = Topology::build(shape);
    let _servers = http_servers(&topology);
    let client = &topology.clients[0].netns;
    for family in Family::BOTH {
        let server = topology.servers[1].address(family);
        client::ping(client, server);
        client::ping(client, family.balancer());
        let answer = client::curl(client, &client::url(server, TARGET_PORT, "/"));
        assert_eq!(answer, "Hello! I'm finance-server-2\n");
        client::download(client, server, TARGET_PORT, 20_000_000);
        client::upload(client, server, TARGET_PORT, 20_000_000);
    }
}

#[test]
fn only_a_tun_device_with_offloads_passes_super_packets_whole() {
    for (offloads, expected) in [(true, 42_000 + 28..=42_000 + 28), (false, 1400 + 28..=1500)] {
        let topology = Topology::build(&Shape {
            link: Link::Tun { offloads },
            ..Shape::of(&Attachment::TUN_AUTO)
        });
        let server = UdpServer::echo(&topology.servers[0].netns, "server", 5000);
        let to = SocketAddr::new(topology.servers[0].address(Family::V4), 5000);
        let socket = client::udp(&topology.clients[0], 0, to);
        set_udp_segment(&socket, 1400).unwrap();
        socket.send(&[7; 42_000]).unwrap();
        wait::until("30 datagrams to arrive", wait::STEP, || {
            let sizes = server.sizes();
            (sizes == [1400; 30])
                .then_some(())
                .ok_or_else(|| format!("{sizes:?}"))
        });
        let longest = topology.switch().longest_packet();
        assert!(expected.contains(&longest), "offloads: {offloads}: {longest}");
    }
}

#[test]
fn iperf3_runs_directly() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _server = client::Iperf3Server::start(&topology.servers[0].netns, 5201);
    let address = topology.servers[0].address(Family::V6);
    let report = client::iperf3(&topology.clients[0].netns, address, 5201, &["-n", "10M"]);
    let received = &report["end"]["sum_received"]["bytes"];
    // The client ends the server's count, with some of the data still on the way.
    assert!(received.as_f64() > Some(5e6), "{received} bytes");
}

#[test]
fn echo_servers_answer_with_their_name() {
    let topology = Topology::build(&Shape::of(&Attachment::TUN_AUTO));
    let _tcp = TcpServer::echo(&topology.servers[0].netns, "alice", 6000);
    let _udp = UdpServer::echo(&topology.servers[0].netns, "alice", 6000);
    let node = &topology.clients[0];
    let to = SocketAddr::new(topology.servers[0].address(Family::V6), 6000);
    let mut stream = client::tcp(node, to);
    assert_eq!(vl3lb_tests::server::greeting(&mut stream).unwrap(), "alice");
    let socket = client::udp(node, 0, to);
    socket.send(b"hi").unwrap();
    let mut answer = [0; 100];
    let length = receive(&socket, &mut answer).unwrap();
    assert_eq!(&answer[..length], b"alice:hi");
}

#[test]
fn a_program_gets_sigkill_when_the_thread_that_started_it_ends() {
    let netns = Netns::new("netns").or_panic();
    let mut child = std::thread::scope(|scope| {
        let start = || netns.command("sleep").arg("600").spawn().expect("run sleep");
        scope.spawn(start).join().expect("the thread does not panic")
    });
    let status = wait::until("the end of the program", wait::STEP, || {
        child.try_wait().expect("look at sleep").ok_or("still running")
    });
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

#[test]
fn a_namespace_and_its_devices_are_removed_with_its_last_handle() {
    let [near, far] = ["near", "far"].map(|label| Netns::new(label).or_panic());
    veth::create(
        (&near, &VethEnd::new("near", 1)),
        (&far, &VethEnd::new("far", 1)),
        1500,
    )
    .or_panic();
    let devices = || process::run(near.command("ls").arg("/sys/class/net")).or_panic();
    assert_eq!(devices(), "lo\nnear\n");
    let other = far.clone();
    drop(far);
    other.ip("link set far up").or_panic();
    drop(other);
    wait::until("the veth pair to be removed", wait::STEP, || match devices() {
        devices if devices == "lo\n" => Ok(()),
        devices => Err(devices),
    });
}

#[test]
fn errors_name_the_namespace_the_command_and_the_cause() {
    let netns = Netns::new("client0").or_panic();
    let error = netns
        .ip("link set lo up\nlink set nsm-1 up")
        .unwrap_err()
        .to_string();
    for part in [
        "ip -batch - in client0",
        "exit status: 1",
        "nsm-1",
        "link set lo up",
    ] {
        assert!(error.contains(part), "no {part:?}: {error}");
    }
    let error = netns.sysctl("net/ipv4/nonsense", "1").unwrap_err().to_string();
    assert_eq!(
        error,
        "set net/ipv4/nonsense to 1 in client0: No such file or directory (os error 2)"
    );
    let error = process::run(&mut netns.command("no-such-program"))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("run no-such-program: "), "{error}");
    let error = tun::open(&netns, "longer-than-fifteen", TunKind::Plain)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("an interface name has at most 15 bytes"),
        "{error}"
    );
}
