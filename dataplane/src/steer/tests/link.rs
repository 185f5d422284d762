//! Interfaces as they are found, and those that are refused.

use vl3lb_testbed::tun::TunKind;
use vl3lb_testbed::veth::VethEnd;

use crate::error::SetupError;
use crate::link::{Link, LinkInfo};
use crate::testing::netns::{in_namespace, tun, veth_pair, veth_pair_down};

#[test]
fn queues_and_mtu_of_a_veth_are_read() {
    in_namespace(|| {
        veth_pair(
            &VethEnd::new("peer", 3),
            &VethEnd {
                receive_queues: 3,
                transmit_queues: 2,
                ..VethEnd::new("nsm-1", 3)
            },
            9000,
        );
        let link = LinkInfo::inspect("nsm-1").unwrap();
        assert!(matches!(link.link, Link::Ethernet(_)));
        assert_eq!((link.driver.as_str(), link.mtu), ("veth", 9000));
        assert_eq!((link.receive_queues, link.transmit_queues), (3, 2));
        assert!(link.super_packets);
    });
}

#[test]
fn super_packets_of_a_tun_device_are_detected() {
    in_namespace(|| {
        for (name, kind) in [("tun0", TunKind::Plain), ("tun1", TunKind::VnetHeader)] {
            let [_device] = tun(name, kind);
            let link = LinkInfo::inspect(name).unwrap();
            assert_eq!((link.link, link.driver.as_str()), (Link::RawIp, "tun"));
            assert_eq!((link.receive_queues, link.transmit_queues), (1, 1));
            assert_eq!(link.super_packets, kind == TunKind::VnetHeader);
        }
        let _queues: [_; 2] = tun("tun2", TunKind::MultiQueue);
        let link = LinkInfo::inspect("tun2").unwrap();
        assert_eq!(
            (link.receive_queues, link.transmit_queues),
            (2, 2),
            "not the 256 that are allocated"
        );
    });
}

#[test]
fn a_missing_interface_is_an_error_that_names_the_others() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("eth0", 1), &VethEnd::new("peer", 1), 1500);
        for missing in ["nsm-1", "", "a-name-that-is-too-long"] {
            let error = LinkInfo::inspect(missing).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("interface {missing} does not exist; there are: eth0, lo, peer")
            );
        }
    });
}

#[test]
fn interfaces_that_cannot_be_served_are_refused() {
    in_namespace(|| {
        let error = LinkInfo::inspect("lo").unwrap_err().to_string();
        assert!(error.contains("only Ethernet and TUN"), "{error}");

        veth_pair_down(&VethEnd::new("down0", 1), &VethEnd::new("down1", 1), 1500);
        let error = LinkInfo::inspect("down0").unwrap_err();
        assert!(matches!(error, SetupError::InterfaceDown { .. }), "{error}");

        for (mtu, name, peer) in [(575, "low", "low-peer"), (61_427, "high", "high-peer")] {
            veth_pair(&VethEnd::new(name, 1), &VethEnd::new(peer, 1), mtu);
            let error = LinkInfo::inspect(name).unwrap_err();
            assert!(matches!(error, SetupError::MtuUnusable { .. }), "{error}");
        }
    });
}
