//! The attachments on real interfaces, with real frames, in a network namespace per test.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use aya::programs::{SchedClassifier, TcAttachType};
use vl3lb_common::Protocol;
use vl3lb_common::addr::to_octets;
use vl3lb_common::hash::{OwnerKey, reduce};
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::packet_socket::PacketSocket;
use vl3lb_testbed::tun::{TunKind, VNET_HEADER};
use vl3lb_testbed::veth::VethEnd;

use super::super::*;
use super::packets::*;
use super::receiver::Receiver;
use crate::link::netlink::Netlink;
use crate::testing::netns::{in_namespace, tun, veth_pair};
use companion::has_program;
use kernel::Feature;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 1, 100));
const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 1, 103));
const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x64));
const OURS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x67));
const PORT: u16 = 8080;
/// How long a frame may take, in milliseconds.
const LIMIT: i32 = 5000;

pub(super) fn rules(workers: u32) -> Rules {
    let service = |address| ServiceKey {
        address,
        port: PORT,
        protocol: Protocol::Udp,
    };
    Rules {
        services: [service(OURS), service(OURS6)].into(),
        addresses: vec![OURS, OURS6],
        nat_ports: NatPorts::new(10_000, 19_999).unwrap(),
        kernel_ports: Arc::default(),
        workers: u16::try_from(workers).unwrap(),
        owner_key: OwnerKey::from_seed(7),
    }
}

fn request(source_port: u16) -> Vec<u8> {
    ip(CLIENT, OURS, UDP, &ports(source_port, PORT))
}

fn reply(nat_port: u16) -> Vec<u8> {
    ip(CLIENT, OURS, TCP, &ports(8081, nat_port))
}

pub(super) fn not_ours() -> Vec<u8> {
    ip(CLIENT, OURS, UDP, &ports(40_000, 53))
}

/// `packet` in a frame to the interface `name`.
pub(super) fn framed(name: &str, packet: &[u8]) -> Vec<u8> {
    let Link::Ethernet(mac) = LinkInfo::inspect(name).unwrap().link else {
        panic!("{name} is not Ethernet")
    };
    ethernet(mac.0, ethertype(packet), packet)
}

/// Attached to `nsm-1`, and a receiver on each queue, with rules in force.
fn start(mode: Mode, workers: Option<u16>) -> (Steer, Vec<Receiver>) {
    // `auto` without the fast path: see decide.rs for the choice with it.
    let fast_path = if mode == Mode::Auto {
        FastPathConfig::OFF
    } else {
        FastPathConfig::default()
    };
    let mut steer = Steer::attach(&LinkInfo::inspect("nsm-1").unwrap(), mode, workers, fast_path).unwrap();
    let receivers = (0..steer.queues())
        .map(|queue| Receiver::bind(&mut steer, queue))
        .collect();
    steer.allow(&rules(steer.queues())).unwrap();
    (steer, receivers)
}

fn tcx_programs() -> usize {
    SchedClassifier::query_tcx("nsm-1", TcAttachType::Ingress)
        .unwrap()
        .1
        .len()
}

/// Sends `frame` out of the Ethernet interface `name`.
pub(super) fn send(name: &str, frame: &[u8]) {
    let socket = PacketSocket::sender(name).or_panic();
    socket.send(frame).unwrap();
}

/// The names of all interfaces.
pub(super) fn link_names() -> Vec<String> {
    Netlink::open().unwrap().link_names().unwrap()
}

/// Nothing of the balancer's is at or beside `nsm-1`.
pub(super) fn assert_untouched() {
    let left: Vec<_> = link_names()
        .into_iter()
        .filter(|name| name.starts_with("lb"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    let link = Netlink::open().unwrap().link("nsm-1").unwrap();
    assert!(!has_program(&link.unwrap()));
    assert_eq!(tcx_programs(), 0);
}

#[test]
fn on_a_veth_native_mode_is_chosen_and_leaves_nothing_behind() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let (steer, mut receivers) = start(Mode::Auto, None);
        assert_eq!(
            (steer.mode(), steer.queues(), steer.refuses()),
            (AttachMode::Native, 1, "")
        );
        assert_eq!(
            (steer.receive_interface(), steer.transmit_interface()),
            ("nsm-1", "nsm-1")
        );
        let frame = framed("nsm-1", &request(40_000));
        send("peer", &framed("nsm-1", &not_ours()));
        send("peer", &frame);
        assert_eq!(receivers[0].receive(LIMIT).as_ref(), Some(&frame));
        assert_eq!(
            steer.steered(),
            Steered {
                redirected: 1,
                passed: 1,
                ..Steered::default()
            }
        );
        drop((steer, receivers));
        assert_untouched();
    });
}

#[test]
fn generic_mode_redirects_the_same_frames_and_reports_what_it_cannot_serve() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let (steer, mut receivers) = start(Mode::Generic, Some(1));
        assert_eq!(steer.mode(), AttachMode::Generic);
        assert!(steer.reason().starts_with("set by mode: generic; VLAN tags"));
        assert!(steer.refuses().contains("udp_super_packet"));
        let frame = framed("nsm-1", &request(40_000));
        send("peer", &framed("nsm-1", &not_ours()));
        send("peer", &frame);
        assert_eq!(receivers[0].receive(LIMIT).as_ref(), Some(&frame));
        assert_eq!(
            steer.steered(),
            Steered {
                redirected: 1,
                passed: 1,
                ..Steered::default()
            }
        );
        drop((steer, receivers));
        assert_untouched();
    });
}

#[test]
fn a_long_frame_reaches_a_native_program() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 9000);
        let (steer, _receivers) = start(Mode::Native, None);
        let mut packet = request(40_000);
        packet.resize(9000, 0);
        send("peer", &framed("nsm-1", &packet));
        assert_eq!(
            steer.steered(),
            Steered {
                redirected: 1,
                passed: 0,
                ..Steered::default()
            }
        );
    });
}

#[test]
fn ports_come_to_the_workers_before_they_are_handed_out_and_go_to_the_kernel_after() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let (mut steer, _receivers) = start(Mode::Native, None);
        let with = |port| Rules {
            kernel_ports: Arc::new(PortSet::from(port..=port)),
            ..rules(1)
        };
        let passed = |steer: &Steer, port| {
            let before = steer.steered().passed;
            send("peer", &framed("nsm-1", &reply(port)));
            steer.steered().passed > before
        };
        steer.restrict(&with(10_001)).unwrap();
        assert!(!passed(&steer, 10_001), "workers still hand it out");
        steer.allow(&with(10_001)).unwrap();
        assert!(passed(&steer, 10_001));
        steer.restrict(&with(10_002)).unwrap();
        assert!(!passed(&steer, 10_001), "workers are about to hand it out");
        assert!(!passed(&steer, 10_002));
        steer.allow(&with(10_002)).unwrap();
        assert!(passed(&steer, 10_002));
    });
}

#[test]
fn the_companion_pair_brings_each_flow_to_its_owner() {
    in_namespace(|| {
        veth_pair(
            &VethEnd::new("peer", 1),
            &VethEnd {
                receive_queues: 1,
                transmit_queues: 2,
                ..VethEnd::new("nsm-1", 1)
            },
            1500,
        );
        let (steer, mut receivers) = start(Mode::Companion, Some(2));
        assert_eq!((steer.receive_interface(), steer.queues()), ("lbf-nsm-1", 2));
        let client = to_octets(CLIENT);
        let flows = (0..32_u16).flat_map(|i| {
            let (client_port, nat_port) = (40_000 + i, 10_000 + 301 * i);
            let by_hash = reduce(OwnerKey::from_seed(7).hash(&client, client_port, PORT, UDP), 2);
            let by_port = u32::from(rules(2).nat_ports.owner(nat_port, 2));
            [(request(client_port), by_hash), (reply(nat_port), by_port)]
        });
        let mut seen = [0; 2];
        for (packet, owner) in flows {
            let frame = framed("nsm-1", &packet);
            send("peer", &frame);
            let owner = owner as usize;
            assert_eq!(
                receivers[owner].receive(LIMIT).as_ref(),
                Some(&frame),
                "worker {owner}"
            );
            seen[owner] += 1;
        }
        assert!(seen.iter().all(|&count| count > 16), "{seen:?}");
        assert_eq!(tcx_programs(), 1);
        drop((steer, receivers));
        assert_untouched();
    });
}

#[test]
fn on_a_tun_device_the_companion_pair_delivers_packets_from_their_ip_header_on() {
    in_namespace(|| {
        let [mut device] = tun("nsm-1", TunKind::Plain);
        let (steer, mut receivers) = start(Mode::Auto, None);
        assert_eq!(
            (steer.mode(), steer.queues(), steer.refuses()),
            (AttachMode::Companion, 1, "")
        );
        assert_eq!(steer.receive_interface(), "lbf-nsm-1");
        let mut full = request(40_001);
        full.resize(1500, 0);
        let packets = [
            request(40_000),
            ip(CLIENT6, OURS6, UDP, &ports(40_000, PORT)),
            reply(10_000),
            full,
        ];
        assert_eq!(device.write(&not_ours()).unwrap(), not_ours().len());
        for packet in &packets {
            assert_eq!(device.write(packet).unwrap(), packet.len());
            assert_eq!(receivers[0].receive(LIMIT).as_ref(), Some(packet));
        }
        assert_eq!(
            steer.steered(),
            Steered {
                redirected: 4,
                passed: 1,
                ..Steered::default()
            }
        );
        drop((steer, receivers));
        assert_untouched();
    });
}

#[test]
fn the_companion_pair_segments_udp_super_packets() {
    in_namespace(|| {
        let [mut device] = tun("nsm-1", TunKind::VnetHeader);
        let (_steer, mut receivers) = start(Mode::Auto, None);
        // struct virtio_net_hdr: NEEDS_CSUM, GSO_UDP_L4, header length, segment size, where the checksum is.
        let mut write = vec![1, 5];
        for field in [28_u16, 1000, 20, 6] {
            write.extend(field.to_ne_bytes());
        }
        assert_eq!(write.len(), VNET_HEADER);
        let mut datagram = ports(40_000, PORT)[..8].to_vec();
        datagram[4..6].copy_from_slice(&3008_u16.to_be_bytes());
        datagram.extend((0..3000_u16).map(|i| u8::try_from(i / 1000).unwrap()));
        write.extend(ip(CLIENT, OURS, UDP, &datagram));
        assert_eq!(device.write(&write).unwrap(), write.len());
        for part in 0..3_u8 {
            let packet = receivers[0].receive(LIMIT).expect("a segment");
            assert_eq!(packet.len(), 1028);
            assert!(packet[28..].iter().all(|&byte| byte == part), "segment {part}");
        }
    });
}

#[test]
fn generic_mode_on_a_tun_device_takes_raw_ip() {
    in_namespace(|| {
        let [mut device] = tun("nsm-1", TunKind::Plain);
        let (steer, mut receivers) = start(Mode::Generic, None);
        assert_eq!(device.write(&request(40_000)).unwrap(), request(40_000).len());
        assert_eq!(receivers[0].receive(LIMIT), Some(request(40_000)));
        drop((steer, receivers));
        assert_untouched();
    });
}

#[test]
fn rules_can_be_added_and_taken_away_live() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let (mut steer, _receivers) = start(Mode::Native, None);
        let frame = framed("nsm-1", &request(40_000));
        let mut less = rules(1);
        less.services.clear();
        less.addresses = vec![OURS6];
        let mut counts = Vec::new();
        for step in 0..4 {
            match step {
                1 => steer.restrict(&less).unwrap(),
                2 => steer.allow(&less).unwrap(),
                3 => steer.allow(&rules(1)).unwrap(),
                _ => {}
            }
            send("peer", &frame);
            counts.push(steer.steered().redirected);
        }
        assert_eq!(counts, [1, 1, 1, 2]);
    });
}

#[test]
fn a_forced_mode_that_cannot_be_is_an_error() {
    in_namespace(|| {
        let [_device] = tun("tun0", TunKind::Plain);
        let error = Steer::attach(
            &LinkInfo::inspect("tun0").unwrap(),
            Mode::Native,
            None,
            FastPathConfig::default(),
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("interface tun0 (driver tun) has no native XDP"),
            "{error}"
        );

        veth_pair(
            &VethEnd {
                receive_queues: 1,
                transmit_queues: 2,
                ..VethEnd::new("peer", 1)
            },
            &VethEnd::new("nsm-1", 1),
            1500,
        );
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let error = Steer::attach(&link, Mode::Native, None, FastPathConfig::default()).unwrap_err();
        assert!(matches!(error, SetupError::PeerQueues { .. }), "{error}");
        let steer = Steer::attach(&link, Mode::Auto, None, FastPathConfig::OFF).unwrap();
        assert_eq!(steer.mode(), AttachMode::Companion);
        assert!(
            steer.reason().contains("(native: attach to nsm-1"),
            "{}",
            steer.reason()
        );
    });
}

#[test]
fn a_socket_of_a_queue_without_a_worker_is_refused() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let (mut steer, _receivers) = start(Mode::Native, None);
        let no_socket = std::fs::File::open("/dev/null").unwrap();
        let error = steer.register_socket(1, no_socket.as_fd()).unwrap_err();
        assert!(matches!(error, SetupError::QueueUnknown { .. }), "{error}");
        let error = steer.register_socket(0, no_socket.as_fd()).unwrap_err();
        assert!(matches!(error, SetupError::RegisterSocket { .. }), "{error}");
    });
}

/// An older kernel: without the fast path everything goes on, and the reason says what is missing. `auto` prefers another
/// mode then.
#[test]
fn without_a_feature_of_the_fast_path_the_worker_takes_all_packets() {
    in_namespace(|| {
        let [_device] = tun("tun0", TunKind::Plain);
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        for (without, reason) in [
            (Feature::MappedArrays, "map the fast path for 16384 flows of "),
            (
                Feature::Program,
                "the kernel's verifier says: BPF_ATOMIC uses invalid atomic opcode 70",
            ),
            (
                Feature::TcxLinks,
                "the kernel has no tcx links (Linux before 6.6)",
            ),
        ] {
            let kernel = Kernel {
                without: Some(without),
            };
            for (interface, mode, chosen) in [
                ("nsm-1", Mode::Companion, AttachMode::Companion),
                ("nsm-1", Mode::Auto, AttachMode::Native),
                ("tun0", Mode::Auto, AttachMode::Companion),
            ] {
                let link = LinkInfo::inspect(interface).unwrap();
                let mut steer =
                    Steer::attach_on(kernel, &link, mode, None, FastPathConfig::default()).unwrap();
                steer.allow(&rules(steer.queues())).unwrap();
                assert_eq!(steer.mode(), chosen, "{without:?} {interface}");
                assert_eq!(steer.fast_path().flows, 0, "{without:?} {interface}");
                assert!(steer.fast_memory().is_none());
                // In native mode the reason for the mode names it.
                let said = format!("{} {}", steer.fast_path().reason, steer.reason());
                assert!(said.contains(reason), "{without:?} {interface}: {said}");
            }
        }
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let steer = Steer::attach(&link, Mode::Companion, None, FastPathConfig::default()).unwrap();
        assert!(steer.fast_path().flows > 0 && steer.fast_memory().is_some());
    });
}
