//! Programs beside the balancer, at ports in the range of NAT ports.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::server::{TcpServer, UdpServer, greeting};
use vl3lb_tests::socket::{connect_tcp, receive};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, PORT, TARGET_PORT, echo_servers};
use crate::routing::warnings;

on_attachments!(programs_keep_their_ports:
    veth_native = Attachment::VETH_NATIVE,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
    tun_companion = Attachment::TUN_COMPANION,
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
);

fn echoed(stream: &mut TcpStream) {
    let mut echo = [0; 5];
    stream.write_all(b"hello").expect("send");
    stream.read_exact(&mut echo).expect("the echo");
    assert_eq!(&echo, b"hello");
}

/// Asks the program at `port` over TCP.
fn reach(topology: &Topology, address: IpAddr, port: u16) -> TcpStream {
    let mut stream = client::tcp(&topology.clients[0], SocketAddr::new(address, port));
    greeting(&mut stream).expect("its name");
    echoed(&mut stream);
    stream
}

fn wait_warning(balancer: &Balancer, what: &str, parts: &[&str]) {
    wait::until(what, wait::STEP, || {
        let shown = warnings(balancer, "nat_ports_taken");
        let is_shown = match &shown[..] {
            [] => parts.is_empty(),
            [text] => !parts.is_empty() && parts.iter().all(|part| text.contains(part)),
            _ => false,
        };
        is_shown.then_some(()).ok_or_else(|| format!("{shown:?}"))
    });
}

fn programs_keep_their_ports(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = echo_servers(&topology);
    let own = &topology.balancer;
    let addresses = Family::BOTH.map(|family| own.address(family));
    let from_before = TcpServer::echo(&own.netns, "beside", 15_020);
    let mut open: Vec<_> = addresses.map(|address| reach(&topology, address, 15_020)).into();
    let balancer = Balancer::start(own, &finance::config(&topology, attachment.mode));
    wait_warning(&balancer, "a listener from before the start", &[":15020"]);
    open.iter_mut().for_each(echoed);
    open.extend(addresses.map(|address| reach(&topology, address, 15_020)));
    open.iter_mut().for_each(echoed);

    // Programs that begin later, TCP and UDP.
    let later = TcpServer::echo(&own.netns, "later", 15_021);
    let datagrams = UdpServer::echo(&own.netns, "datagrams", 15_022);
    wait_warning(
        &balancer,
        "listeners that began later",
        &["TCP", "UDP", ":15020", ":15021", ":15022"],
    );
    for address in addresses {
        reach(&topology, address, 15_021);
        let socket = client::udp(&topology.clients[0], 0, SocketAddr::new(address, 15_022));
        socket.send(b"hello").expect("send");
        let mut answer = [0; 64];
        let length = receive(&socket, &mut answer).expect("an answer");
        assert!(answer[..length].ends_with(b"hello"));
    }

    // A connection from such a port: its SYN leaves by the kernel, and the response comes back to it.
    for family in Family::BOTH {
        let from = SocketAddr::new(own.address(family), 15_333);
        let to = SocketAddr::new(topology.servers[0].address(family), TARGET_PORT);
        let connection = own
            .netns
            .spawn("client", move || connect_tcp(from, to, wait::STEP))
            .expect("start a thread");
        let mut stream = connection
            .join()
            .expect("the thread")
            .expect("connect from port 15333");
        greeting(&mut stream).expect("the name of the server");
        echoed(&mut stream);
    }

    // Flows go on beside them.
    for family in Family::BOTH {
        for _ in 0..8 {
            let mut stream = client::tcp(&topology.clients[0], SocketAddr::new(family.balancer(), PORT));
            greeting(&mut stream).expect("the name of the server");
            echoed(&mut stream);
        }
    }
    drop((open, from_before, later, datagrams));
    wait_warning(&balancer, "no warning after they are gone", &[]);
}

/// All NAT ports but one are of other programs and reserved ones.
#[test]
fn reserved_ports_and_ports_of_programs_are_no_nat_ports() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = echo_servers(&topology);
    let own = &topology.balancer;
    own.netns
        .sysctl("net/ipv4/ip_local_reserved_ports", "15000-15005")
        .expect("reserve ports");
    let _beside = TcpServer::echo(&own.netns, "beside", 15_006);
    let config = finance::config(&topology, "auto").with("natPorts", serde_json::json!("15000-15007"));
    let balancer = Balancer::start(own, &config);
    wait_warning(&balancer, "both", &["reserved ports 15000-15005", ":15006"]);
    let stream = client::tcp(&topology.clients[0], SocketAddr::new(Family::V4.balancer(), PORT));
    let backends = balancer.cli_json(&["backends"]);
    let backends = backends["items"].as_array().expect("a list");
    assert!(
        backends
            .iter()
            .all(|backend| backend["natPorts"]["capacity"] == 1),
        "{backends:?}"
    );
    let flows = balancer.cli_json(&["flows"]);
    let flow = &flows["items"][0];
    assert_eq!(flow["natPort"], 15_007, "{flow}");
    drop(stream);
    // Each backend has this one port: the next flow may need it.
    wait::until("the flow to have ended", wait::STEP, || {
        let flows = balancer.cli_json(&["flows"]);
        let state = flows["items"][0]["state"].as_str().unwrap_or("gone");
        let has_ended = ["closing", "reset", "gone"].contains(&state);
        has_ended.then_some(()).ok_or_else(|| state.to_owned())
    });

    // Port 15007 too: its flow ends, so that the program gets all packets.
    let mut kept = client::tcp(&topology.clients[0], SocketAddr::new(Family::V4.balancer(), PORT));
    greeting(&mut kept).expect("the name of the server");
    let _taken = TcpServer::echo(&own.netns, "taken", 15_007);
    wait::until("the flow to end", wait::STEP, || {
        let ended = balancer
            .metrics()
            .sum("vl3lb_service_flows_closed_total", &[("cause", "port_taken")]);
        (ended >= 1.0).then_some(()).ok_or(ended)
    });
    let mut rest = Vec::new();
    let end = kept.read_to_end(&mut rest).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    reach(&topology, own.address(Family::V4), 15_007);
}
