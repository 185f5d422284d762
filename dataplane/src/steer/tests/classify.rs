//! What is ours and what is the kernel's: packets through the loaded programs, by BPF_PROG_TEST_RUN.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use aya::TestRun;
use aya::programs::TestRunOptions;
use rustix::net::{AddressFamily, SocketType};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::{MacAddr, Protocol};

use super::super::*;
use super::packets::{TCP, UDP, ethernet, ethertype, ports};
use super::table::{BACKEND, CLIENT, MORE, NAT_FIRST, NAT_LAST, OURS, OURS6, PORT, table, tcp, v4};
use program::STEER_XDP;

/// The address of the test run's device, the loopback interface.
pub(super) const OWN_MAC: [u8; 6] = [0; 6];

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const TC_NEXT: u32 = u32::MAX;
const TC_REDIRECT: u32 = 7;

/// The four ways a packet can reach the classifier.
pub(super) struct Bench {
    ways: Vec<Way>,
    _socket: OwnedFd,
}

struct Way {
    name: &'static str,
    programs: Programs,
    tc: bool,
    raw_ip: bool,
}

impl Bench {
    pub(super) fn new() -> Self {
        require_root();
        let socket = receiving_socket();
        let ways = [
            ("XDP, Ethernet", false, false),
            ("XDP, raw IP", false, true),
            ("tc, Ethernet", true, false),
            ("tc, raw IP", true, true),
        ]
        .map(|(name, tc, raw_ip)| Way {
            name,
            programs: load(raw_ip, &socket),
            tc,
            raw_ip,
        });
        Self {
            ways: ways.into(),
            _socket: socket,
        }
    }

    /// Whether `packet` is ours; all four ways must agree.
    pub(super) fn is_ours(&mut self, packet: &[u8]) -> bool {
        let verdicts: Vec<_> = self
            .ways
            .iter_mut()
            .map(|way| (way.name, way.is_ours(packet)))
            .collect();
        let ours = verdicts[0].1;
        assert!(
            verdicts.iter().all(|&(_, verdict)| verdict == ours),
            "{verdicts:?} on {packet:02x?}"
        );
        ours
    }
}

impl Way {
    fn is_ours(&mut self, packet: &[u8]) -> bool {
        if self.raw_ip {
            self.run(packet)
        } else {
            self.run(&ethernet(OWN_MAC, ethertype(packet), packet))
        }
    }

    /// The shortest piece of `packet` that BPF_PROG_TEST_RUN takes: 14 bytes, and for tc the IP header if an
    /// Ethernet header announces one.
    fn smallest_input(&self, packet: &[u8]) -> usize {
        match (self.tc && !self.raw_ip, packet[0] >> 4) {
            (true, 4) => 20,
            (true, _) => 40,
            (false, _) => 14,
        }
    }

    fn run(&mut self, frame: &[u8]) -> bool {
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = if self.tc {
            self.programs.tc(program::STEER_TC).unwrap().test_run(options)
        } else {
            self.programs.xdp(STEER_XDP).unwrap().test_run(options)
        }
        .unwrap();
        out.truncate(result.data_size_out as usize);
        let ours = match (self.tc, result.return_value) {
            (false, XDP_REDIRECT) | (true, TC_REDIRECT) => true,
            (false, XDP_PASS) | (true, TC_NEXT) => false,
            (_, other) => panic!("{}: action {other} on {frame:02x?}", self.name),
        };
        if self.tc && self.raw_ip && ours {
            let mut header = [0; 14];
            header[12..].copy_from_slice(&ethertype(frame).to_be_bytes());
            assert_eq!(out[..14], header, "the header that is put before the packet");
            assert_eq!(out[14..], *frame);
        } else {
            assert_eq!(out, frame, "the frame must not be changed");
        }
        ours
    }
}

pub(super) fn load(raw_ip: bool, socket: &OwnedFd) -> Programs {
    let link = LinkInfo {
        name: "test".to_owned(),
        index: 1,
        link: if raw_ip {
            Link::RawIp
        } else {
            Link::Ethernet(MacAddr(OWN_MAC))
        },
        driver: "veth".to_owned(),
        mtu: 1500,
        receive_queues: 1,
        transmit_queues: 1,
        super_packets: true,
    };
    let mut programs = Programs::load(&link, 1, 1, 0).unwrap();
    programs.register_socket(0, socket.as_fd()).unwrap();
    programs
        .set_config(
            NatPorts::new(NAT_FIRST, NAT_LAST).unwrap(),
            2,
            &OwnerKey::from_seed(7),
        )
        .unwrap();
    for address in [IpAddr::from(OURS), OURS6.into()] {
        programs.insert_address(address).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Sctp] {
            programs.insert_service(&service(address, protocol)).unwrap();
        }
    }
    programs
        .insert_service(&service(OURS6.into(), Protocol::Udp))
        .unwrap();
    programs
}

fn service(address: IpAddr, protocol: Protocol) -> ServiceKey {
    ServiceKey {
        address,
        port: PORT,
        protocol,
    }
}

/// An AF_XDP socket with a receive ring, which is what the socket map asks for.
pub(super) fn receiving_socket() -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
    rustix::net::sockopt::set_xdp_rx_ring_size(&socket, 64).unwrap();
    socket
}

pub(super) fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test loads BPF programs: run it as root"
    );
}

#[test]
fn only_the_balancers_packets_are_redirected() {
    let mut bench = Bench::new();
    for (description, packet, ours) in table() {
        assert_eq!(bench.is_ours(&packet), ours, "{description}");
    }
}

#[test]
fn packets_to_ports_that_are_left_out_are_passed_unless_a_service_is_there() {
    let mut bench = Bench::new();
    let mut left_out = PortSet::from(15_020..=15_021);
    left_out.insert(PORT);
    for way in &mut bench.ways {
        way.programs.set_left_out(&left_out).unwrap();
    }
    for (port, ours) in [
        (15_019, true),
        (15_020, false),
        (15_021, false),
        (15_022, true),
        (PORT, true),
    ] {
        let reply = tcp(BACKEND, 8081, OURS, port);
        assert_eq!(bench.is_ours(&reply), ours, "{port}");
        let later = v4(TCP, port, 100, &[0; 32]);
        assert_eq!(
            bench.is_ours(&v4(TCP, port, MORE, &ports(8081, port))),
            ours,
            "a fragment, {port}"
        );
        assert_eq!(bench.is_ours(&later), ours, "another fragment, {port}");
    }
}

#[test]
fn truncated_packets_never_reach_a_worker_without_their_ports() {
    let mut bench = Bench::new();
    for (description, packet, _) in table() {
        for way in &mut bench.ways {
            for length in way.smallest_input(&packet)..packet.len() {
                let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
                let ours = way.is_ours(&packet[..length]);
                assert!(
                    !ours || length >= header,
                    "{description}, {length} bytes, {}",
                    way.name
                );
            }
        }
    }
    let request = tcp(CLIENT, 40_000, OURS, PORT);
    assert!(!bench.is_ours(&request[..23]));
    assert!(bench.is_ours(&request[..24]));
}

#[test]
fn fragments_follow_their_first_one() {
    let mut bench = Bench::new();
    let first = |port| v4(TCP, 77, MORE, &ports(40_000, port));
    let later = v4(TCP, 77, 100, &[0; 32]);
    assert!(!bench.is_ours(&first(22)));
    assert!(
        !bench.is_ours(&later),
        "its first fragment was passed to the kernel"
    );
    assert!(bench.is_ours(&v4(TCP, 78, 100, &[0; 32])), "another datagram");
    assert!(bench.is_ours(&v4(UDP, 77, 100, &[0; 32])), "another protocol");
    assert!(bench.is_ours(&first(PORT)), "the identification is used again");
    assert!(bench.is_ours(&later));
}

#[test]
fn frames_that_are_no_ip_or_not_for_us_are_passed() {
    let mut bench = Bench::new();
    let packet = tcp(CLIENT, 40_000, OURS, PORT);
    let tagged = [&[0, 5, 8, 0], packet.as_slice()].concat();
    let mut wrong_version = packet.clone();
    wrong_version[0] = 0x65;
    let frames = [
        ("VLAN", ethernet(OWN_MAC, 0x8100, &tagged)),
        ("ARP", ethernet([0xff; 6], 0x0806, &[0; 28])),
        ("broadcast", ethernet([0xff; 6], 0x0800, &packet)),
        ("multicast", ethernet([1, 0, 0x5e, 0, 0, 1], 0x0800, &packet)),
        ("another host", ethernet([2, 0, 0, 0, 0, 9], 0x0800, &packet)),
        (
            "IPv6 that says it is IPv4",
            ethernet(OWN_MAC, 0x0800, &wrong_version),
        ),
        ("IPv4 that says it is IPv6", ethernet(OWN_MAC, 0x86dd, &packet)),
    ];
    for way in bench.ways.iter_mut().filter(|way| !way.raw_ip) {
        for (description, frame) in &frames {
            assert!(!way.run(frame), "{description}, {}", way.name);
        }
    }
    for way in bench.ways.iter_mut().filter(|way| way.raw_ip) {
        assert!(!way.run(&[0; 40]), "{}", way.name);
    }
}

#[test]
fn frames_are_counted_as_redirected_or_passed() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.is_ours(&tcp(CLIENT, 40_000, OURS, PORT));
    }
    bench.is_ours(&tcp(CLIENT, 40_000, OURS, 22));
    for way in &bench.ways {
        assert_eq!(
            way.programs.counters().read(),
            Steered {
                redirected: 3,
                passed: 1,
                ..Steered::default()
            },
            "{}",
            way.name
        );
    }
}

#[test]
fn a_queue_without_a_socket_drops_the_workers_frames() {
    let mut bench = Bench::new();
    let way = &mut bench.ways[0];
    let link = LinkInfo {
        name: "test".to_owned(),
        index: 1,
        link: Link::Ethernet(MacAddr(OWN_MAC)),
        driver: "veth".to_owned(),
        mtu: 1500,
        receive_queues: 1,
        transmit_queues: 1,
        super_packets: true,
    };
    way.programs = Programs::load(&link, 1, 0, 0).unwrap();
    way.programs
        .insert_service(&service(OURS.into(), Protocol::Tcp))
        .unwrap();
    let frame = |port| {
        let packet = tcp(CLIENT, 40_000, OURS, port);
        ethernet(OWN_MAC, ethertype(&packet), &packet)
    };
    for (port, action) in [(PORT, XDP_DROP), (PORT + 1, XDP_PASS)] {
        let mut options = TestRunOptions::new();
        let frame = frame(port);
        options.data_in = Some(&frame);
        let result = way.programs.xdp(STEER_XDP).unwrap().test_run(options);
        assert_eq!(result.unwrap().return_value, action, "port {port}");
    }
    assert_eq!(
        way.programs.counters().read(),
        Steered {
            passed: 1,
            dropped: 1,
            ..Steered::default()
        }
    );
}

#[test]
fn removed_services_and_addresses_are_the_kernels_again() {
    let mut bench = Bench::new();
    let request = tcp(CLIENT, 40_000, OURS, PORT);
    let reply = tcp(BACKEND, 8081, OURS, 20_000);
    for way in &mut bench.ways {
        way.programs
            .remove_service(&service(OURS.into(), Protocol::Tcp))
            .unwrap();
    }
    assert!(!bench.is_ours(&request));
    assert!(bench.is_ours(&reply), "replies go on");
    for way in &mut bench.ways {
        way.programs.remove_address(OURS.into()).unwrap();
    }
    assert!(!bench.is_ours(&reply));
}
