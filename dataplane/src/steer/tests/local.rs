//! What is a local client's: packets through the program of the loopback interface, by BPF_PROG_TEST_RUN; and how it is
//! attached and leaves.

use std::net::IpAddr;

use aya::TestRun;
use aya::programs::{SchedClassifier, TcAttachType, TestRunOptions};
use rustix::net::{AddressFamily, SocketType};
use vl3lb_testbed::veth::VethEnd;

use super::super::*;
use super::attach::link_names;
use super::classify::{load, receiving_socket, require_root};
use super::packets::*;
use super::table::{CLIENT, MORE, OURS, OURS6, PORT};
use crate::testing::netns::{in_namespace, ip as run_ip, veth_pair};
use kernel::Feature;
use local::LOOPBACK;
use program::STEER_LO;

const TC_NEXT: u32 = u32::MAX;
const TC_REDIRECT: u32 = 7;
const FROM: u16 = 40_000;

fn is_ours(programs: &mut Programs, packet: &[u8]) -> bool {
    let frame = ethernet([0; 6], ethertype(packet), packet);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    match programs
        .tc(STEER_LO)
        .unwrap()
        .test_run(options)
        .unwrap()
        .return_value
    {
        TC_REDIRECT => true,
        TC_NEXT => false,
        other => panic!("action {other} on {packet:02x?}"),
    }
}

fn own(protocol: u8, id: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    Ipv4 {
        source: OURS,
        destination: OURS,
        protocol,
        options: &[],
        id,
        fragment,
    }
    .packet(payload)
}

#[test]
fn only_packets_of_own_addresses_to_services_are_a_local_clients() {
    require_root();
    let socket = receiving_socket();
    for raw_ip in [false, true] {
        let mut programs = load(raw_ip, &socket);
        let (v4, v6) = (IpAddr::from(OURS), IpAddr::from(OURS6));
        let request = ip(v4, v4, TCP, &ports(FROM, PORT));
        assert!(!is_ours(&mut programs, &request), "without a pair");
        programs.set_local_near(1).unwrap();
        let localhost = IpAddr::from([127, 0, 0, 1]);
        for (description, packet, ours) in [
            ("TCP", request, true),
            ("TCP over IPv6", ip(v6, v6, TCP, &ports(FROM, PORT)), true),
            ("UDP over IPv6", ip(v6, v6, UDP, &ports(FROM, PORT)), true),
            ("UDP, no service", ip(v4, v4, UDP, &ports(FROM, PORT)), false),
            ("another port", ip(v4, v4, TCP, &ports(FROM, PORT + 1)), false),
            ("a NAT port", ip(v4, v4, TCP, &ports(FROM, 20_000)), false),
            ("a reply", ip(v4, v4, TCP, &ports(PORT, FROM)), false),
            ("SCTP", ip(v4, v4, SCTP, &ports(FROM, PORT)), false),
            (
                "from another address",
                ip(CLIENT.into(), v4, TCP, &ports(FROM, PORT)),
                false,
            ),
            (
                "from 127.0.0.1",
                ip(localhost, v4, TCP, &ports(FROM, PORT)),
                false,
            ),
            (
                "to 127.0.0.1",
                ip(localhost, localhost, TCP, &ports(FROM, PORT)),
                false,
            ),
            ("without ports", ip(v4, v4, TCP, &[]), false),
            (
                "ICMP",
                ip(v4, v4, ICMP, &icmp_error(3, &ip(v4, v4, TCP, &ports(PORT, FROM)))),
                false,
            ),
            ("a first fragment", own(TCP, 1, MORE, &ports(FROM, PORT)), true),
            ("a later one", own(TCP, 1, 100, &[0; 32]), true),
            ("of another datagram", own(TCP, 2, 100, &[0; 32]), false),
            (
                "a first one to another port",
                own(TCP, 3, MORE, &ports(FROM, 53)),
                false,
            ),
            ("its later one", own(TCP, 3, 100, &[0; 32]), false),
            (
                "a first one to another port, with a number that was used before",
                own(TCP, 1, MORE, &ports(FROM, 53)),
                false,
            ),
            ("its later one", own(TCP, 1, 100, &[0; 32]), false),
        ] {
            assert_eq!(is_ours(&mut programs, &packet), ours, "{description}");
        }
    }
}

fn loopback_programs() -> usize {
    SchedClassifier::query_tcx(LOOPBACK, TcAttachType::Egress)
        .unwrap()
        .1
        .len()
}

fn own_links() -> Vec<String> {
    let mut names = link_names();
    names.retain(|name| name.starts_with("lb"));
    names.sort_unstable();
    names
}

#[test]
fn the_way_of_local_clients_leaves_with_the_attachment() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        run_ip("link set lo up");
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let mut steer = Steer::attach(&link, Mode::Native, None, FastPathConfig::default()).unwrap();
        assert_eq!(steer.prepare_local(&link).unwrap(), "lbm-nsm-1");
        assert_eq!(own_links(), ["lbl-nsm-1", "lbm-nsm-1"]);
        assert_eq!(loopback_programs(), 1);
        steer.end_local();
        assert_eq!((own_links(), loopback_programs()), (Vec::new(), 0));
        steer.prepare_local(&link).unwrap();
        drop(steer);
        assert_eq!((own_links(), loopback_programs()), (Vec::new(), 0));
    });
}

#[test]
fn the_next_attachment_has_a_way_of_its_own_while_this_one_holds_packets_back() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        run_ip("link set lo up");
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let attach = || Steer::attach(&link, Mode::Native, None, FastPathConfig::default()).unwrap();
        let mut steer = attach();
        steer.prepare_local(&link).unwrap();
        let hold = steer.hold().expect("it can");
        assert_eq!((own_links(), loopback_programs()), (Vec::new(), 1));
        let mut next = attach();
        assert_eq!(next.prepare_local(&link).unwrap(), "lbm-nsm-1");
        drop(hold);
        assert_eq!(own_links(), ["lbl-nsm-1", "lbm-nsm-1"]);
        assert_eq!(loopback_programs(), 1);
    });
}

#[test]
fn a_kernel_without_tcx_links_is_named() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let kernel = Kernel {
            without: Some(Feature::TcxLinks),
        };
        let mut steer =
            Steer::attach_on(kernel, &link, Mode::Native, None, FastPathConfig::default()).unwrap();
        let error = steer.prepare_local(&link).unwrap_err();
        assert!(error.to_string().contains("Linux has since 6.6"), "{error}");
        steer.end_local();
        assert_eq!((own_links(), loopback_programs()), (Vec::new(), 0));
    });
}

/// The socket map takes sockets only; what was prepared is taken back.
#[test]
fn a_socket_that_is_none_is_refused() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let mut steer = Steer::attach(&link, Mode::Native, None, FastPathConfig::default()).unwrap();
        steer.prepare_local(&link).unwrap();
        let other = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        let error = steer
            .begin_local(std::os::fd::AsFd::as_fd(&other), &[7])
            .unwrap_err();
        assert!(matches!(error, SetupError::RegisterSocket { .. }), "{error}");
    });
}
