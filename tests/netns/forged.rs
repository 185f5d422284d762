//! Segments of a sender who sees nothing of a connection do not hurt it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use etherparse::TcpHeader;
use serde_json::Value;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::Shape;
use vl3lb_tests::wait;

use crate::attacker::{Attacker, mac};
use crate::finance::{self, PORT, TARGET_PORT};

/// Numbers that the sender tries, all over the space.
const GUESSES: u32 = 200;
/// Numbers that it tries at once: with eight segments each, no more than the queue of a veth device has room for.
const AT_ONCE: u16 = 8;

on_attachments!(a_connection_outlives_forged_segments:
    veth_native = Attachment::VETH_NATIVE,
    veth_generic = Attachment::VETH_GENERIC,
    veth_companion = Attachment::VETH_COMPANION,
);

fn a_connection_outlives_forged_segments(attachment: &Attachment) {
    let testbed = finance::Testbed::echo(&Shape::of(attachment), attachment.mode);
    let (topology, balancer) = (&testbed.topology, &testbed.balancer);
    for family in Family::BOTH {
        let victim = &topology.clients[0];
        let service = SocketAddr::new(family.balancer(), PORT);
        let mut stream = client::tcp(victim, service);
        greeting(&mut stream).unwrap();
        echo(&mut stream);
        let from = stream.local_addr().unwrap();
        let flow = flow_of(balancer, from).expect("a flow of the connection");
        let backend: IpAddr = flow["backend"].as_str().unwrap().parse().unwrap();
        let nat_port = u16::try_from(flow["natPort"].as_u64().unwrap()).unwrap();
        let backend = SocketAddr::new(backend, TARGET_PORT);
        let to_backend = SocketAddr::new(family.balancer(), nat_port);
        let server = topology
            .servers
            .iter()
            .find(|node| node.address(family) == backend.ip());
        let server_mac = mac(&server.unwrap().netns);
        let client_mac = mac(&victim.netns);

        // A connection that the client's host knows nothing of, as if its address were spoofed.
        let spoofed = SocketAddr::new(from.ip(), 1_234);
        let attacker = Attacker::new(topology);
        attacker.tcp(client_mac, spoofed, service, 1_000, |tcp| tcp.syn = true);
        let packets = |flow: &Value| flow["in"]["packetsTotal"].as_u64().unwrap();
        let before = packets(&flow);
        for first in (0..GUESSES).step_by(usize::from(AT_ONCE)) {
            let guesses = first..first + u32::from(AT_ONCE);
            for guess in guesses.clone().map(|n| n.wrapping_mul(u32::MAX / GUESSES)) {
                for kind in [fin, reset, reset_ack] {
                    attacker.tcp(client_mac, from, service, guess, kind);
                    attacker.tcp(server_mac, backend, to_backend, guess, kind);
                }
                attacker.tcp(client_mac, from, service, guess, |tcp| tcp.syn = true);
                // Behind its SYN, a guess of what the backend's was.
                attacker.tcp(client_mac, spoofed, service, 1_001, |tcp| {
                    tcp.ack = true;
                    tcp.acknowledgment_number = guess;
                });
            }
            // The client's four of each guess have come to the flow.
            wait::until("the forged segments to arrive", wait::STEP, || {
                let found = flow_of(balancer, from).map_or(0, |flow| packets(&flow));
                (found >= before + 4 * u64::from(guesses.end))
                    .then_some(())
                    .ok_or_else(|| format!("{found} packets, {before} before"))
            });
        }
        echo(&mut stream);
        let after = flow_of(balancer, from).expect("the same flow");
        assert_eq!(
            (&after["state"], &after["natPort"]),
            (&"established".into(), &flow["natPort"])
        );
        let state = flow_of(balancer, spoofed).map(|flow| flow["state"].clone());
        assert_ne!(state, Some("closing".into()));
        let established = balancer.cli_json(&["flows", "--state", "established"]);
        let expires = |flow: &Value| flow["expiresSeconds"].as_f64().unwrap();
        for other in established["items"].as_array().unwrap() {
            let lasts = expires(other) > 300.0;
            assert_eq!(lasts, other["clientPort"] == from.port(), "{other}");
        }
        // The ends' own FINs are judged right.
        drop(stream);
        wait::until("the connection to be closed", wait::STEP, || {
            let state = flow_of(balancer, from).map(|flow| flow["state"].clone());
            (state == Some("closing".into()))
                .then_some(())
                .ok_or_else(|| format!("{state:?}"))
        });
    }
}

fn fin(tcp: &mut TcpHeader) {
    (tcp.fin, tcp.ack) = (true, true);
    tcp.acknowledgment_number = tcp.sequence_number;
}

fn reset(tcp: &mut TcpHeader) {
    tcp.rst = true;
}

fn reset_ack(tcp: &mut TcpHeader) {
    (tcp.rst, tcp.ack) = (true, true);
    tcp.acknowledgment_number = tcp.sequence_number;
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");
}

fn flow_of(balancer: &Balancer, client: SocketAddr) -> Option<Value> {
    let flows = balancer.cli_json(&["flows"]);
    let address = client.ip().to_string();
    let is_it = |flow: &&Value| {
        flow["client"] == address.as_str() && flow["clientPort"] == client.port() && flow["protocol"] == "TCP"
    };
    flows["items"].as_array()?.iter().find(is_it).cloned()
}
