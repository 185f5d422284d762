//! Shedding in the loaded programs, as a worker asks for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use aya::TestRun;
use aya::programs::TestRunOptions;
use vl3lb_common::Protocol;
use vl3lb_common::Timestamp;
use vl3lb_common::addr::to_octets;
use vl3lb_common::hash::OwnerKey;

use super::super::*;
use super::classify::{OWN_MAC, load, receiving_socket, require_root};
use super::packets::{SCTP, TCP, UDP, ethernet, ethertype, ip, ports};
use super::table::{BACKEND, CLIENT, CLIENT6, NAT_FIRST, NAT_LAST, OURS, OURS6, PORT};
use crate::shed::{SAMPLE_BYTES, Shed};
use program::STEER_XDP;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FLOOD: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// A program with one worker, and what that worker says to it.
struct Bench {
    programs: Programs,
    tc: bool,
    shed: Shed,
    _socket: OwnedFd,
}

fn benches() -> [Bench; 2] {
    require_root();
    [false, true].map(|tc| {
        let socket = receiving_socket();
        let mut programs = load(false, &socket);
        let key = OwnerKey::from_seed(7);
        programs
            .set_config(NatPorts::new(NAT_FIRST, NAT_LAST).unwrap(), 1, &key)
            .unwrap();
        let shed = Shed::new(Arc::new(programs.shed_memory().unwrap()), 0, key);
        Bench {
            programs,
            tc,
            shed,
            _socket: socket,
        }
    })
}

impl Bench {
    /// Whether an IP packet gets to the worker; else it is dropped.
    fn passes(&mut self, packet: &[u8]) -> bool {
        let frame = ethernet(OWN_MAC, ethertype(packet), packet);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        let result = if self.tc {
            self.programs.tc(program::STEER_TC).unwrap().test_run(options)
        } else {
            self.programs.xdp(STEER_XDP).unwrap().test_run(options)
        };
        // XDP_REDIRECT and XDP_DROP, TC_ACT_REDIRECT and TC_ACT_SHOT.
        match (self.tc, result.unwrap().return_value) {
            (false, 4) | (true, 7) => true,
            (false, 1) | (true, 2) => false,
            (_, other) => panic!("action {other} on {packet:02x?}"),
        }
    }

    /// How many of these packets get to the worker.
    fn passed(&mut self, packets: impl Iterator<Item = Vec<u8>>) -> usize {
        packets.filter(|packet| self.passes(packet)).count()
    }
}

fn tcp(source: impl Into<IpAddr>, port: u16, sequence: u32, flags: u8) -> Vec<u8> {
    let source = source.into();
    let destination = if source.is_ipv4() {
        IpAddr::from(OURS)
    } else {
        OURS6.into()
    };
    let mut header = ports(port, PORT);
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[13] = flags;
    ip(source, destination, TCP, &header)
}

fn udp(source: Ipv6Addr, port: u16) -> Vec<u8> {
    ip(source.into(), OURS6.into(), UDP, &ports(port, PORT)[..12])
}

/// A packet with one chunk; the checksum is only compared.
fn sctp(source: Ipv4Addr, port: u16, checksum: u32, chunk: u8) -> Vec<u8> {
    let mut header = ports(port, PORT);
    header[8..12].copy_from_slice(&checksum.to_be_bytes());
    header[12] = chunk;
    ip(source.into(), OURS.into(), SCTP, &header)
}

fn at(tenths: u64) -> Timestamp {
    Timestamp(tenths * 100_000_000)
}

#[test]
fn as_many_flows_are_admitted_as_the_worker_says() {
    for mut bench in benches() {
        let mut number = 0;
        let mut flood = |count| {
            let first = number;
            number += count;
            (first..first + count).map(|n| tcp(FLOOD, 1_000 + n, n.into(), SYN))
        };
        assert_eq!(bench.passed(flood(5)), 5, "nothing is shed");
        bench.shed.admit(2, 0, at(10));
        assert_eq!(bench.passed(flood(5)), 2);
        assert_eq!(bench.passed(flood(5)), 0);
        assert_eq!((bench.shed.take_dropped(), bench.shed.take_dropped()), (8, 0));
        bench.shed.admit(3, 0, at(10));
        assert_eq!(bench.passed(flood(5)), 3, "counted from what was admitted before");
        bench.shed.end();
        assert_eq!(bench.passed(flood(5)), 5);
        assert_eq!(bench.shed.take_dropped(), 2);
    }
}

#[test]
fn packets_of_known_flows_pass() {
    for mut bench in benches() {
        let service = ServiceKey {
            address: OURS.into(),
            port: NAT_FIRST + 1,
            protocol: Protocol::Tcp,
        };
        bench.programs.insert_service(&service).unwrap();
        let reply = |protocol: u8, port: u16| {
            let mut header = ports(8081, port);
            header[13] = ACK;
            ip(BACKEND.into(), OURS.into(), protocol, &header)
        };
        let syn = tcp(CLIENT, 1, 1, SYN);
        let all = |bench: &mut Bench| {
            let tcp_flags = [ACK, SYN | ACK, 0x11, 0x04, 0].map(|flags| tcp(CLIENT, 1, 1, flags));
            let replies = [TCP, UDP].map(|protocol| reply(protocol, NAT_FIRST));
            bench.passed(tcp_flags.into_iter().chain(replies).chain([udp(CLIENT6, 40_000)]))
        };
        let (client, backend) = (to_octets(CLIENT.into()), to_octets(BACKEND.into()));
        bench.shed.admit(0, 0, at(10));
        assert_eq!(all(&mut bench), 0);
        for protocol in [TCP, UDP] {
            bench.shed.note_flow(&client, [1, PORT], protocol, at(10));
            bench
                .shed
                .note_flow(&backend, [8081, NAT_FIRST], protocol, at(10));
        }
        bench
            .shed
            .note_flow(&CLIENT6.octets(), [40_000, PORT], UDP, at(10));
        assert_eq!(all(&mut bench), 8);
        assert!(!bench.passes(&syn), "it would open another one");
        // ECN-setup SYN of RFC 3168.
        assert!(!bench.passes(&tcp(CLIENT, 1, 2, SYN | 0xc0)));
        assert!(!bench.passes(&tcp(CLIENT, 2, 1, ACK)), "another flow");
        assert!(!bench.passes(&udp(CLIENT6, 40_001)), "another flow");
        assert!(!bench.passes(&reply(TCP, NAT_FIRST + 2)), "another flow");
        bench.shed.admit(0, 0, at(9));
        assert_eq!(
            all(&mut bench),
            8,
            "noted after the last word of the worker's clock"
        );
        for (tenths, passed) in [(319, 8), (320, 0), (2_300, 0), (2_560, 8), (2_869, 8), (2_870, 0)] {
            // Times come again after 255 seconds.
            bench.shed.admit(0, 0, at(tenths));
            assert_eq!(all(&mut bench), passed, "{tenths}");
        }
    }
}

#[test]
fn strays_are_admitted_apart_from_new_flows() {
    for mut bench in benches() {
        let service = ServiceKey {
            address: OURS.into(),
            port: NAT_FIRST + 1,
            protocol: Protocol::Tcp,
        };
        bench.programs.insert_service(&service).unwrap();
        let to_service = |flags: u8| {
            let mut header = ports(8081, service.port);
            header[13] = flags;
            ip(BACKEND.into(), OURS.into(), TCP, &header)
        };
        let mut to_port = ports(8081, NAT_FIRST);
        to_port[13] = SYN;
        let to_port = ip(BACKEND.into(), OURS.into(), TCP, &to_port);
        bench.shed.admit(1, 2, at(10));
        assert!(bench.passes(&tcp(FLOOD, 1, 1, ACK)));
        assert!(bench.passes(&to_port), "no port of a service: it opens no flow");
        assert_eq!(bench.passed((0..5).map(|port| tcp(FLOOD, port, 1, ACK))), 0);
        assert!(!bench.passes(&to_port));
        assert!(!bench.passes(&to_service(ACK)));
        assert!(bench.passes(&to_service(SYN)), "a new flow");
        assert!(!bench.passes(&tcp(FLOOD, 3, 1, SYN)));
        assert_eq!(bench.shed.take_dropped(), 8);
    }
}

#[test]
fn proven_sources_pass_for_ten_minutes() {
    for mut bench in benches() {
        bench.shed.admit(0, 0, at(10));
        bench.shed.prove(&to_octets(CLIENT.into()), at(10));
        bench.shed.prove(&CLIENT6.octets(), at(10));
        let neighbor = Ipv6Addr::from_bits(CLIENT6.to_bits() ^ 0xffff);
        let stranger = Ipv6Addr::from_bits(CLIENT6.to_bits() ^ 1 << 64);
        assert!(bench.passes(&tcp(CLIENT, 1, 1, SYN)));
        assert!(bench.passes(&tcp(CLIENT6, 1, 1, SYN)));
        assert!(bench.passes(&tcp(neighbor, 1, 1, SYN)), "of the same subscriber");
        assert!(bench.passes(&udp(neighbor, 9)), "whatever it sends");
        assert!(bench.passes(&tcp(CLIENT, 1, 1, ACK)));
        let to_port = ip(CLIENT.into(), OURS.into(), TCP, &ports(1, NAT_FIRST));
        assert!(!bench.passes(&to_port), "but to a service");
        assert!(!bench.passes(&tcp(stranger, 1, 1, SYN)));
        assert!(!bench.passes(&tcp(FLOOD, 1, 1, SYN)));
        bench.shed.admit(0, 0, at(6_019));
        assert!(bench.passes(&tcp(CLIENT, 1, 2, SYN)));
        bench.shed.admit(0, 0, at(6_020));
        assert!(!bench.passes(&tcp(CLIENT, 1, 3, SYN)));
    }
}

#[test]
fn a_retransmitted_syn_is_admitted() {
    for mut bench in benches() {
        let syn = tcp(CLIENT, 40_000, 7, SYN);
        bench.shed.admit(0, 0, at(10));
        assert!(!bench.passes(&syn));
        bench.shed.admit(1, 0, at(14));
        assert!(bench.passes(&tcp(FLOOD, 1, 1, SYN)), "the others' share");
        assert!(!bench.passes(&syn), "a copy");
        bench.shed.admit(0, 0, at(20));
        assert!(!bench.passes(&syn), "no more are admitted");
        bench.shed.admit(1, 0, at(20));
        assert!(bench.passes(&tcp(FLOOD, 2, 1, SYN)), "the others' share");
        assert!(!bench.passes(&tcp(CLIENT, 40_000, 8, SYN)), "another SYN");
        assert!(!bench.passes(&tcp(CLIENT, 40_001, 7, SYN)), "another port");
        assert!(bench.passes(&syn));
        bench.shed.admit(1, 0, at(111));
        assert!(bench.passes(&tcp(FLOOD, 3, 1, SYN)), "the others' share");
        assert!(!bench.passes(&syn), "too late");
    }
}

#[test]
fn dropped_packets_are_copied_for_captures_while_there_is_room() {
    for mut bench in benches() {
        let packet = |port: u16, payload: usize| {
            let mut header = ports(port, PORT);
            header[13] = SYN;
            let segment = [header.as_slice(), &vec![port.to_be_bytes()[1]; payload]].concat();
            ethernet(OWN_MAC, 0x0800, &ip(FLOOD.into(), OURS.into(), TCP, &segment))
        };
        let taken = |bench: &mut Bench| {
            let mut all = Vec::new();
            let mut bytes = [0; SAMPLE_BYTES];
            for place in bench.shed.sample_places() {
                if let Some(sample) = bench.shed.take_sample(place, &mut bytes) {
                    all.push((bytes[..sample.copied].to_vec(), sample.length));
                }
            }
            all
        };
        let expected = |ports: std::ops::Range<u16>, payload: usize| {
            let packets = ports.map(|port| packet(port, payload));
            packets
                .map(|packet| (packet[..packet.len().min(SAMPLE_BYTES)].to_vec(), packet.len()))
                .collect::<Vec<_>>()
        };
        let drop = |bench: &mut Bench, ports: std::ops::Range<u16>, payload: usize| {
            for port in ports {
                assert!(!bench.passes(&packet(port, payload)[14..]));
            }
        };
        bench.shed.admit(0, 0, at(10));
        drop(&mut bench, 1..4, 0);
        assert_eq!(taken(&mut bench), [], "no capture");
        bench.shed.set_sampling(true);
        for (first, payload) in [(100, 0), (200, 186), (300, 187), (400, 1_000)] {
            drop(&mut bench, first..first + 7, payload);
            assert_eq!(taken(&mut bench), expected(first..first + 7, payload));
        }
        drop(&mut bench, 500..540, 10);
        assert_eq!(
            taken(&mut bench),
            expected(500..516, 10),
            "the others had no room"
        );
        drop(&mut bench, 600..603, 10);
        assert_eq!(taken(&mut bench), expected(600..603, 10));
        bench.shed.admit(5, 0, at(10));
        for port in 700..705 {
            assert!(bench.passes(&packet(port, 10)[14..]));
        }
        assert_eq!(taken(&mut bench), [], "nothing was dropped");
        bench.shed.set_sampling(false);
        drop(&mut bench, 800..803, 10);
        assert_eq!(taken(&mut bench), []);
    }
}

#[test]
fn another_workers_overload_concerns_its_own_flows() {
    for mut bench in benches() {
        let memory = Arc::new(bench.programs.shed_memory().unwrap());
        let other = Shed::new(memory, 1, OwnerKey::from_seed(7));
        other.admit(0, 0, at(10));
        assert!(bench.passes(&tcp(FLOOD, 1, 1, SYN)));
    }
}

#[test]
fn associations_are_admitted_as_connections_are() {
    const INIT: u8 = 1;
    const DATA: u8 = 0;
    const COOKIE_ECHO: u8 = 10;
    for mut bench in benches() {
        let init = sctp(CLIENT, 40_000, 7, INIT);
        bench.shed.admit(2, 1, at(10));
        let flood = |bench: &mut Bench, chunk| {
            let packets = (1..6).map(|port| sctp(FLOOD, port, port.into(), chunk));
            bench.passed(packets)
        };
        assert_eq!(flood(&mut bench, INIT), 2, "new ones");
        assert_eq!(flood(&mut bench, DATA), 1, "packets of none");
        assert!(!bench.passes(&init));
        // Sent again, as a true client does after a second.
        bench.shed.admit(1, 0, at(20));
        assert!(bench.passes(&sctp(FLOOD, 9, 9, INIT)), "the others' share");
        assert!(!bench.passes(&sctp(CLIENT, 40_000, 8, INIT)), "another INIT");
        assert!(bench.passes(&init));

        bench.shed.admit(0, 0, at(20));
        let client = to_octets(CLIENT.into());
        bench.shed.note_flow(&client, [40_000, PORT], SCTP, at(20));
        for (chunk, passes) in [(COOKIE_ECHO, true), (DATA, true), (INIT, false)] {
            let packet = sctp(CLIENT, 40_000, 1, chunk);
            assert_eq!(
                bench.passes(&packet),
                passes,
                "chunk {chunk} of a known association"
            );
        }
        assert!(
            !bench.passes(&sctp(CLIENT, 40_001, 1, DATA)),
            "another association"
        );
        let backend = to_octets(BACKEND.into());
        let mut header = ports(PORT, NAT_FIRST);
        header[12] = DATA;
        let reply = ip(BACKEND.into(), OURS.into(), SCTP, &header);
        assert!(!bench.passes(&reply));
        bench.shed.note_flow(&backend, [PORT, NAT_FIRST], SCTP, at(20));
        assert!(bench.passes(&reply));
    }
}
