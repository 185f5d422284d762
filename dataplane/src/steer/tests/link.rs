//! Interfaces as they are found, and those that are refused.

use super::netns::{End, in_new_namespace, tun, tun_with_two_queues, veth, veth_down};
use crate::error::SetupError;
use crate::link::{Link, LinkInfo};

#[test]
fn queues_and_mtu_of_a_veth_are_read() {
    in_new_namespace(|| {
        veth(
            End::new("peer", 3),
            End {
                name: "nsm-1",
                receive_queues: 3,
                transmit_queues: 2,
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
    in_new_namespace(|| {
        for (name, vnet_header) in [("tun0", false), ("tun1", true)] {
            let _device = tun(name, vnet_header);
            let link = LinkInfo::inspect(name).unwrap();
            assert_eq!((link.link, link.driver.as_str()), (Link::RawIp, "tun"));
            assert_eq!((link.receive_queues, link.transmit_queues), (1, 1));
            assert_eq!(link.super_packets, vnet_header);
        }
        let _queues = tun_with_two_queues("tun2");
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
    in_new_namespace(|| {
        veth(End::new("eth0", 1), End::new("peer", 1), 1500);
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
    in_new_namespace(|| {
        let error = LinkInfo::inspect("lo").unwrap_err().to_string();
        assert!(error.contains("only Ethernet and TUN"), "{error}");

        veth_down(End::new("down0", 1), End::new("down1", 1), 1500);
        let error = LinkInfo::inspect("down0").unwrap_err();
        assert!(matches!(error, SetupError::InterfaceDown { .. }), "{error}");

        for (mtu, name, peer) in [(575, "low", "low-peer"), (61_427, "high", "high-peer")] {
            veth(End::new(name, 1), End::new(peer, 1), mtu);
            let error = LinkInfo::inspect(name).unwrap_err();
            assert!(matches!(error, SetupError::MtuUnusable { .. }), "{error}");
        }
    });
}
