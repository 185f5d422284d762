//! Against a real kernel: clients and backends are a packet socket at the other end of a veth pair.

mod memory;
mod native;
mod reattach;

use std::fs;

use vl3lb_common::Duration;
use vl3lb_common::dataplane::AttachMode;
use vl3lb_common::next_hop;
use vl3lb_common::snapshot::NatPorts;

use super::*;
use crate::config::{FastPathConfig, Mode, Timeouts, ZeroCopy};
use crate::testing::builder::{self, Addresses, MACS};
use crate::testing::netns::{NEAR, Wire, in_namespace, with_veth};
use crate::testing::validate;
use crate::testing::world::{self, BACKEND, SERVICE};

const LIMIT: Duration = Duration::from_secs(2);

fn config(mode: Mode) -> Config {
    Config {
        interface: NEAR.to_owned(),
        mode,
        zero_copy: ZeroCopy::Auto,
        cores: None,
        flows: 1000,
        client_flows: None,
        frames: 512,
        nat_ports: NatPorts::new(20_000, 20_999).unwrap(),
        timeouts: Timeouts::default(),
        fast_path: FastPathConfig::default(),
    }
}

fn snapshot(generation: u64) -> Arc<Snapshot> {
    Arc::new(world::snapshot(generation, next_hop::Link::Ethernet(MACS.1)))
}

/// A plane that balances, and the wire to it.
fn start(mode: Mode) -> (Plane, Wire) {
    let wire = Wire::open();
    let plane = Plane::new(config(mode));
    plane.attach().unwrap();
    plane.publish(snapshot(1)).unwrap();
    (plane, wire)
}

fn request(client_port: u16) -> Vec<u8> {
    let client = format!("172.16.1.100:{client_port}");
    builder::udp(Addresses::ethernet(&client, SERVICE), b"request")
}

/// Sends a request and the backend's reply; the NAT port, or what was missing.
fn exchange(wire: &Wire, client_port: u16) -> Result<u16, &'static str> {
    wire.send(&request(client_port));
    let to_backend = wire
        .receive_matching(|frame| addressed(frame, [172, 16, 1, 2]))
        .ok_or("the backend got no request")?;
    validate::validate(&to_backend, true).expect("a valid request");
    let nat_port = u16::from_be_bytes([to_backend[34], to_backend[35]]);
    let reply = Addresses::ethernet(BACKEND, &format!("172.16.1.103:{nat_port}"));
    wire.send(&builder::udp(reply, b"reply"));
    let to_client = wire
        .receive_matching(|frame| addressed(frame, [172, 16, 1, 100]))
        .ok_or("the client got no reply")?;
    validate::validate(&to_client, true).expect("a valid reply");
    assert_eq!(
        to_client[34..38],
        [8080_u16.to_be_bytes(), client_port.to_be_bytes()].concat()
    );
    Ok(nat_port)
}

fn addressed(frame: &[u8], destination: [u8; 4]) -> bool {
    frame.len() > 38 && frame[12..14] == [8, 0] && frame[30..34] == destination
}

/// Many flows, some of whose replies arrive at the wrong worker; all frames return.
fn balances(mode: Mode, attached: AttachMode, workers: usize) {
    let (plane, wire) = start(mode);
    assert_eq!(plane.attachment().unwrap().mode, attached);
    assert_eq!(plane.stats().len(), workers);
    for client in 40_000..40_200 {
        assert!(exchange(&wire, client).is_ok(), "client port {client}");
    }
    assert_eq!(plane.steered().redirected, 400);
    plane.healthy().unwrap();
    assert_eq!(plane.stop(), 0, "frames are missing");
    let sum =
        |counter: fn(&WorkerStats) -> u64| plane.stats().iter().map(|stats| counter(stats)).sum::<u64>();
    assert_eq!(sum(|stats| stats.received.get()), 400);
    assert_eq!(sum(|stats| stats.transmitted.get()), 400);
}

#[test]
fn native_mode_with_two_queues_balances() {
    with_veth(2, || balances(Mode::Native, AttachMode::Native, 2));
}

#[test]
fn generic_mode_balances() {
    with_veth(1, || balances(Mode::Generic, AttachMode::Generic, 1));
}

#[test]
fn companion_mode_with_two_queues_balances() {
    with_veth(2, || balances(Mode::Companion, AttachMode::Companion, 2));
}

#[test]
fn nothing_is_taken_before_the_first_snapshot_nor_after_a_service_is_gone() {
    with_veth(1, || {
        let wire = Wire::open();
        let plane = Plane::new(config(Mode::Native));
        plane.attach().unwrap();
        wire.send(&request(40_000));
        plane.publish(snapshot(1)).unwrap();
        exchange(&wire, 40_001).unwrap();
        let mut without = world::snapshot(2, next_hop::Link::Ethernet(MACS.1));
        without.services.clear();
        plane.publish(Arc::new(without)).unwrap();
        wire.send(&request(40_002));
        plane.publish(snapshot(3)).unwrap();
        exchange(&wire, 40_003).unwrap();
        assert_eq!(plane.stop(), 0);
        assert_eq!(plane.stats()[0].received.get(), 4, "two requests, two replies");
    });
}

#[test]
fn a_hundred_snapshots_under_way_break_nothing() {
    with_veth(2, || {
        let (plane, wire) = start(Mode::Native);
        let nat_port = exchange(&wire, 40_000).unwrap();
        for generation in 2..102 {
            plane.publish(snapshot(generation)).unwrap();
            assert!(
                plane
                    .stats()
                    .iter()
                    .all(|stats| stats.generation.get() == generation)
            );
            assert_eq!(exchange(&wire, 40_000), Ok(nat_port), "the same flow");
        }
        assert_eq!(plane.stop(), 0);
    });
}

#[test]
fn flows_can_be_asked_for() {
    with_veth(1, || {
        let (plane, wire) = start(Mode::Native);
        let nat_port = exchange(&wire, 40_000).unwrap();
        let (answer, answers) = crossbeam::channel::bounded(1);
        let query = |answer| FlowQuery {
            cursor: 0,
            scan: 10_000,
            answer,
        };
        assert!(
            !plane.query_flows(1, query(answer.clone())),
            "there is no worker 1"
        );
        assert!(plane.query_flows(0, query(answer)));
        let slice = answers.recv_timeout(LIMIT).unwrap();
        assert_eq!(slice.flows.len(), 1);
        assert_eq!(slice.flows[0].nat_port, nat_port);
    });
}

#[test]
fn a_stopped_plane_is_detached_and_refuses_snapshots() {
    with_veth(1, || {
        let (plane, wire) = start(Mode::Native);
        exchange(&wire, 40_000).unwrap();
        assert_eq!(plane.stop(), 0);
        assert_eq!(plane.stop(), 0, "harmless");
        assert!(plane.healthy().unwrap_err().to_string().contains("stopped"));
        assert!(
            plane
                .publish(snapshot(2))
                .unwrap_err()
                .to_string()
                .contains("stopped")
        );
        // The interface is free for the next one.
        let (second, wire) = start(Mode::Generic);
        exchange(&wire, 40_001).unwrap();
        drop((plane, second));
    });
}

#[test]
fn an_interface_that_is_taken_or_missing_is_refused() {
    with_veth(1, || {
        let (plane, _wire) = start(Mode::Native);
        let taken = Plane::new(config(Mode::Native)).attach().unwrap_err().to_string();
        assert!(taken.contains(NEAR), "{taken}");
        drop(plane);
    });
    in_namespace(|| {
        let missing = Plane::new(config(Mode::Auto)).attach().unwrap_err().to_string();
        assert!(missing.contains("does not exist"), "{missing}");
    });
}

#[test]
fn workers_are_threads_of_their_own_on_the_cores_that_they_were_given() {
    with_veth(2, || {
        let (plane, _wire) = start(Mode::Native);
        let cores = &plane.attachment().unwrap().cores;
        assert_eq!(cores.len(), 2);
        let names: Vec<_> = fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .collect();
        for number in 0..2 {
            assert!(names.contains(&format!("worker-{number}\n")), "{names:?}");
        }
    });
}
