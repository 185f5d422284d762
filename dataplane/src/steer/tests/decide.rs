//! Which attachment, how many queues: no kernel needed.

use vl3lb_common::MacAddr;

use super::super::*;

fn ethernet(receive_queues: u32, transmit_queues: u32) -> LinkInfo {
    LinkInfo {
        name: "nsm-1".to_owned(),
        index: 7,
        link: Link::Ethernet(MacAddr([2, 0, 0, 0, 0, 1])),
        driver: "veth".to_owned(),
        mtu: 1500,
        receive_queues,
        transmit_queues,
        super_packets: true,
    }
}

fn tun() -> LinkInfo {
    LinkInfo {
        link: Link::RawIp,
        driver: "tun".to_owned(),
        ..ethernet(1, 1)
    }
}

#[test]
fn xdp_on_the_interface_serves_all_its_receive_queues() {
    for mode in [AttachMode::Native, AttachMode::Generic] {
        assert_eq!(queues(&ethernet(4, 4), mode, None, 2).unwrap(), 4);
        assert_eq!(queues(&ethernet(4, 4), mode, Some(4), 2).unwrap(), 4);
        let error = queues(&ethernet(4, 4), mode, Some(2), 2).unwrap_err().to_string();
        assert!(
            error.starts_with("2 workers are configured, but nsm-1 can have 4"),
            "{error}"
        );
        let error = queues(&ethernet(4, 2), mode, None, 2).unwrap_err();
        assert!(matches!(error, SetupError::TransmitQueues { .. }), "{error}");
    }
}

#[test]
fn the_companion_pair_has_as_many_queues_as_the_interface_can_send_from() {
    let mode = AttachMode::Companion;
    assert_eq!(queues(&ethernet(1, 4), mode, None, 2).unwrap(), 2, "one per CPU");
    assert_eq!(
        queues(&ethernet(1, 4), mode, None, 8).unwrap(),
        4,
        "one per transmit queue"
    );
    assert_eq!(
        queues(&ethernet(1, 4), mode, Some(3), 2).unwrap(),
        3,
        "as configured"
    );
    assert_eq!(queues(&tun(), mode, None, 8).unwrap(), 1);
    for workers in [0, 5] {
        let error = queues(&ethernet(1, 4), mode, Some(workers), 8)
            .unwrap_err()
            .to_string();
        assert!(error.contains("can have 1 to 4 in companion mode"), "{error}");
    }
}

#[test]
fn native_mode_on_a_tun_device_is_refused() {
    let error = queues(&tun(), AttachMode::Native, None, 2).unwrap_err();
    assert!(matches!(error, SetupError::NativeUnsupported { .. }), "{error}");
}

#[test]
fn only_generic_mode_refuses_something_and_only_where_it_can_come() {
    assert!(refuses(&ethernet(1, 1), AttachMode::Generic).contains("udp_super_packet"));
    assert_eq!(
        refuses(
            &LinkInfo {
                super_packets: false,
                ..tun()
            },
            AttachMode::Generic
        ),
        ""
    );
    for mode in [AttachMode::Native, AttachMode::Companion] {
        assert_eq!(refuses(&ethernet(1, 1), mode), "");
    }
}

#[test]
fn steer_may_move_to_another_thread() {
    fn moves<T: Send>() {}
    moves::<Steer>();
}
