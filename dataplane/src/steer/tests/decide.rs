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
        for workers in [None, Some(2), Some(8)] {
            assert_eq!(queues(&ethernet(4, 4), mode, workers, 2).unwrap(), 4);
        }
        assert_eq!(queues(&ethernet(4, 2), mode, None, 2).unwrap(), 4);
    }
}

#[test]
fn the_companion_pair_has_a_queue_for_each_worker() {
    let mode = AttachMode::Companion;
    let queues = |link, workers, cpus| queues(&link, mode, workers, cpus).unwrap();
    assert_eq!(queues(ethernet(1, 4), None, 2), 2, "one per CPU");
    assert_eq!(queues(ethernet(1, 4), None, 8), 4, "one per transmit queue");
    for workers in [1, 3, 6] {
        assert_eq!(queues(ethernet(1, 4), Some(workers), 2), workers.into());
    }
    assert_eq!(queues(tun(), None, 8), 1);
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
fn auto_prefers_the_fast_path_on_a_virtual_link_only() {
    let first = |link: &LinkInfo, enabled| {
        let config = FastPathConfig {
            enabled,
            ..FastPathConfig::default()
        };
        candidates(link, Mode::Auto, config)[0]
    };
    let physical = LinkInfo {
        driver: "ixgbe".to_owned(),
        ..ethernet(4, 4)
    };
    assert_eq!(
        first(&ethernet(1, 1), true),
        (AttachMode::Companion, With::FastPath)
    );
    assert_eq!(first(&ethernet(1, 1), false), (AttachMode::Native, With::Any));
    assert_eq!(first(&physical, true), (AttachMode::Native, With::Any));
    assert_eq!(first(&tun(), true), (AttachMode::Companion, With::Any));
}

#[test]
fn a_native_program_sends_back_only_where_its_frames_arrive() {
    let physical = LinkInfo {
        driver: "ixgbe".to_owned(),
        ..ethernet(4, 4)
    };
    let veth = ethernet(1, 1);
    assert_eq!(no_fast_path(&physical, AttachMode::Native), None);
    assert!(no_fast_path(&veth, AttachMode::Native).is_some_and(|reason| reason.contains("GRO")));
    for link in [&physical, &veth, &tun()] {
        assert_eq!(no_fast_path(link, AttachMode::Companion), None);
        assert!(no_fast_path(link, AttachMode::Generic).is_some());
    }
}

#[test]
fn steer_may_move_to_another_thread() {
    fn moves<T: Send>() {}
    moves::<Steer>();
}

#[test]
fn modes_that_see_no_vlan_tags_say_so() {
    use AttachMode::{Companion, Generic, Native};
    for (link, mode, unseen) in [
        (ethernet(1, 1), Native, true),
        (ethernet(1, 1), Generic, true),
        (ethernet(1, 1), Companion, false),
        (tun(), Generic, false),
        (tun(), Companion, false),
    ] {
        for configured in [Mode::Auto, Mode::Native] {
            let reason = reason(&link, configured, mode, &Attempts(Vec::new()));
            assert_eq!(reason.contains("VLAN"), unseen, "{reason}");
        }
    }
}
