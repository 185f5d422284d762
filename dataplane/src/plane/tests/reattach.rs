//! Interfaces that vanish, return and change under a running plane, with a real kernel.

use std::sync::mpsc;
use std::thread;

use vl3lb_common::MacAddr;
use vl3lb_common::dataplane::AttachErrorKind;
use vl3lb_common::next_hop::Link;

use super::*;
use crate::testing::netns::{FAR, ip, remake_veth};

/// The NAT port of each flow of `clients`, with a request and a reply for each.
fn exchange_all(wire: &Wire, clients: std::ops::Range<u16>) -> Vec<u16> {
    clients
        .map(|client| exchange(wire, client).unwrap_or_else(|missing| panic!("client {client}: {missing}")))
        .collect()
}

/// Flows survive the removal of the interface and its return with `queues` queues.
fn survives(mode: Mode, queues: u32) {
    let (plane, wire) = start(mode);
    let workers = plane.stats().len();
    let before = exchange_all(&wire, 40_000..40_020);
    let index = plane.attachment().unwrap().index;
    assert_eq!(plane.link_change(), None);

    ip(&format!("link del {NEAR}"));
    assert_eq!(plane.link_change(), Some(LinkChange::Gone));
    plane.detach();
    assert!(plane.attachment().is_none());
    let missing = plane.attach().unwrap_err();
    assert_eq!(missing.kind, AttachErrorKind::InterfaceAbsent, "{missing}");
    plane.healthy().unwrap();
    plane.publish(snapshot(2)).unwrap();

    remake_veth(queues);
    let wire = Wire::open();
    let attachment = plane.attach().unwrap();
    assert_ne!(attachment.index, index);
    assert_eq!(attachment.receive_queues, queues);
    assert_eq!(plane.attachment(), Some(attachment));
    assert_eq!(plane.stats().len(), workers, "their number is fixed");
    assert_eq!(exchange_all(&wire, 40_000..40_020), before, "the same flows");
    exchange_all(&wire, 41_000..41_020);
    assert_eq!(plane.steered().redirected, 120, "of both attachments");
    assert_eq!(plane.stop(), 0, "frames are missing");
}

#[test]
fn flows_survive_a_replaced_interface_in_native_mode() {
    with_veth(1, || survives(Mode::Native, 1));
}

#[test]
fn flows_survive_a_replaced_interface_in_generic_mode() {
    with_veth(1, || survives(Mode::Generic, 1));
}

#[test]
fn flows_survive_a_replaced_interface_in_companion_mode() {
    with_veth(2, || survives(Mode::Companion, 2));
}

#[test]
fn workers_share_the_only_queue_of_a_new_interface() {
    for mode in [Mode::Native, Mode::Generic, Mode::Companion] {
        with_veth(2, move || survives(mode, 1));
    }
}

#[test]
fn workers_serve_several_queues_of_a_new_interface() {
    for mode in [Mode::Native, Mode::Generic, Mode::Companion] {
        with_veth(1, move || survives(mode, 3));
    }
}

#[test]
fn any_number_of_configured_workers_serves_an_interface() {
    for workers in [1, 3] {
        with_veth(2, move || {
            let wire = Wire::open();
            let plane = Plane::new(Config {
                cores: Some((0..workers).map(|_| 0).collect()),
                ..config(Mode::Native)
            });
            plane.attach().unwrap();
            plane.publish(snapshot(1)).unwrap();
            assert_eq!(plane.stats().len(), workers);
            exchange_all(&wire, 40_000..40_030);
            assert_eq!(plane.stop(), 0);
        });
    }
}

#[test]
fn workers_run_while_the_plane_is_detached() {
    with_veth(2, || {
        let (plane, wire) = start(Mode::Native);
        exchange(&wire, 40_000).unwrap();
        plane.detach();
        plane.detach();
        let beats: Vec<_> = plane.stats().iter().map(|stats| stats.heartbeat.get()).collect();
        plane.publish(snapshot(2)).unwrap();
        for (stats, beat) in plane.stats().iter().zip(beats) {
            assert!(stats.heartbeat.get() > beat);
            assert_eq!(stats.generation.get(), 2);
        }
        let (answer, answers) = crossbeam::channel::bounded(2);
        for worker in 0..2 {
            assert!(plane.query_flows(
                worker,
                FlowQuery {
                    cursor: 0,
                    scan: 10_000,
                    answer: answer.clone(),
                }
            ));
        }
        let flows = [
            answers.recv_timeout(LIMIT).unwrap(),
            answers.recv_timeout(LIMIT).unwrap(),
        ];
        assert_eq!(flows.iter().map(|slice| slice.flows.len()).sum::<usize>(), 1);
        assert_eq!(plane.stop(), 0);
    });
}

/// A request to the MAC address `mac` of the near end.
fn request_to(mac: MacAddr, client_port: u16) -> Vec<u8> {
    let mut frame = request(client_port);
    frame[..6].copy_from_slice(&mac.0);
    frame
}

#[test]
fn a_new_mac_address_is_taken_over_live() {
    for mode in [Mode::Native, Mode::Generic, Mode::Companion] {
        with_veth(1, move || {
            let (plane, wire) = start(mode);
            exchange(&wire, 40_000).unwrap();
            let mac = MacAddr([2, 0, 0, 0, 9, 9]);
            ip(&format!("link set {NEAR} address {mac}"));
            assert_eq!(plane.link_change(), None, "no new attachment is needed");
            let link = Link::Ethernet(mac);
            plane.publish(Arc::new(world::snapshot(2, link))).unwrap();
            wire.send(&request_to(mac, 40_000));
            let frame = wire
                .receive_matching(|frame| addressed(frame, [172, 16, 1, 2]))
                .expect("the request goes on");
            assert_eq!(frame[6..12], mac.0, "sent from the new address");
            assert_eq!(plane.attachment().unwrap().link, link);
            assert_eq!(plane.stop(), 0);
        });
    }
}

#[test]
fn the_companion_pair_follows_the_mtu() {
    with_veth(1, || {
        let (plane, wire) = start(Mode::Companion);
        exchange(&wire, 40_000).unwrap();
        for name in [NEAR, FAR] {
            ip(&format!("link set {name} mtu 4000"));
        }
        let mut snapshot = world::snapshot(2, Link::Ethernet(MACS.1));
        snapshot.mtu = 4000;
        plane.publish(Arc::new(snapshot)).unwrap();
        assert_eq!(plane.attachment().unwrap().mtu, 4000);
        let addresses = Addresses::ethernet("172.16.1.100:40000", SERVICE);
        wire.send(&builder::udp(addresses, &[0x5a; 3500]));
        let long = wire
            .receive_matching(|frame| addressed(frame, [172, 16, 1, 2]))
            .expect("longer than the pair's first MTU");
        validate::validate(&long, true).unwrap();
        assert_eq!(plane.stop(), 0);
    });
}

#[test]
fn an_interface_that_is_down_is_waited_for() {
    with_veth(1, || {
        ip(&format!("link set {NEAR} down"));
        let plane = Plane::new(config(Mode::Native));
        let down = plane.attach().unwrap_err();
        assert_eq!(down.kind, AttachErrorKind::InterfaceAbsent, "{down}");
        ip(&format!("link set {NEAR} up"));
        plane.attach().unwrap();
        ip(&format!("link set {NEAR} down"));
        assert_eq!(plane.link_change(), None, "it serves again when it is up");
    });
}

#[test]
fn an_unsuitable_interface_is_distinguished_from_an_absent_one() {
    with_veth(1, || {
        ip(&format!("link set {NEAR} mtu 500"));
        let unsuitable = Plane::new(config(Mode::Native)).attach().unwrap_err();
        assert_eq!(
            unsuitable.kind,
            AttachErrorKind::InterfaceUnsuitable,
            "{unsuitable}"
        );
    });
}

#[test]
fn readers_do_not_wait_for_an_operation() {
    with_veth(1, || {
        let (plane, wire) = start(Mode::Native);
        exchange(&wire, 40_000).unwrap();
        let plane = Arc::new(plane);
        // As while a publish waits for a worker that hangs.
        let operation = plane.operate();
        let (done, answer) = mpsc::channel();
        let reader = Arc::clone(&plane);
        thread::spawn(move || {
            let read = (
                reader.steered().redirected,
                reader.attachment().is_some(),
                reader.healthy(),
                reader.stats().len(),
            );
            done.send(read).unwrap();
        });
        assert_eq!(answer.recv_timeout(LIMIT), Ok((2, true, Ok(()), 1)));
        drop(operation);
    });
}
