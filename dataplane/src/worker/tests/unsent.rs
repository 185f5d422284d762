//! Packets that could not be sent: their service, and its traffic.

use vl3lb_common::BackendSlot;
use vl3lb_common::stats::Traffic;

use super::*;

/// The UDP service of the snapshot, and its backend.
const UDP: (ServiceSlot, BackendSlot) = (ServiceSlot(1), BackendSlot(1));

/// Packets and bytes of a service and its backend, and those of all flows.
fn traffic(team: &Team, pick: impl Fn(&WorkerStats) -> [&Traffic; 2]) -> [(u64, u64); 2] {
    [0, 1].map(|at| {
        let of = |stats: &Arc<WorkerStats>| {
            let traffic = pick(stats)[at];
            (traffic.packets.get(), traffic.bytes.get())
        };
        team.stats
            .iter()
            .map(of)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    })
}

fn inbound(stats: &WorkerStats) -> [&Traffic; 2] {
    [&stats.service(UDP.0).inbound, &stats.backend(UDP.1).inbound]
}

fn outbound(stats: &WorkerStats) -> [&Traffic; 2] {
    [&stats.service(UDP.0).outbound, &stats.backend(UDP.1).outbound]
}

/// Drops of the UDP service, and of no service.
fn dropped(team: &Team, reason: DropReason) -> [u64; 2] {
    [
        team.sum(|stats| &stats.service(UDP.0).drops[reason.index()]),
        team.sum(|stats| &stats.drops[reason.index()]),
    ]
}

/// Bytes of the flow that opened first: in and out.
fn flow_bytes(team: &mut Team) -> (u64, u64) {
    let (answer, answers) = crossbeam::channel::bounded(1);
    assert!(team.inboxes[0].query(FlowQuery {
        cursor: 0,
        scan: 10_000,
        answer,
    }));
    team.step(0);
    let flow = answers.recv().unwrap().flows.remove(0);
    (flow.bytes_in, flow.bytes_out)
}

#[test]
fn requests_beyond_the_backlog_are_no_traffic_of_their_service() {
    let mut team = Team::new(1);
    team.port(0).set_transmit_room(0);
    for number in 0..600_u16 {
        assert!(team.port(0).push_packet(&request(40_000, &number.to_be_bytes())));
    }
    team.settle();
    let kept = BACKLOG as u64;
    assert_eq!(dropped(&team, DropReason::TxRingFull), [600 - kept, 0]);
    assert_eq!(traffic(&team, inbound), [(kept, kept * 30); 2]);
    assert_eq!(flow_bytes(&mut team), (kept * 30, 0));
    team.close();
}

#[test]
fn replies_beyond_the_backlog_are_no_traffic_of_their_service() {
    let mut team = Team::new(1);
    let out = team.send(0, &request(40_000, b"request"));
    team.port(0).set_transmit_room(0);
    for _ in 0..600 {
        assert!(team.port(0).push_packet(&reply(&out[0])));
    }
    team.settle();
    let kept = BACKLOG as u64;
    assert_eq!(dropped(&team, DropReason::TxRingFull), [600 - kept, 0]);
    assert_eq!(traffic(&team, outbound), [(kept, kept * 33); 2]);
    assert_eq!(traffic(&team, inbound), [(1, 35); 2]);
    assert_eq!(flow_bytes(&mut team), (35, kept * 33));
    team.close();
}

#[test]
fn segments_beyond_the_backlog_are_dropped_for_their_service_and_the_super_packet_stays_counted() {
    let mut team = Team::new(1);
    team.send(0, &segment(flags::SYN, SERVICE, b""));
    team.port(0).set_transmit_room(0);
    for _ in 0..20 {
        assert!(
            team.port(0)
                .push_packet(&segment(flags::ACK, SERVICE, &[1; 60_000]))
        );
        team.settle();
    }
    let drops =
        |slot| team.sum(|stats| &stats.service(ServiceSlot(slot)).drops[DropReason::TxRingFull.index()]);
    assert!(drops(0) > 200, "{}", drops(0));
    assert_eq!(dropped(&team, DropReason::TxRingFull), [0, 0]);
    assert_eq!(
        team.sum(|stats| &stats.service(ServiceSlot(0)).inbound.packets),
        21
    );
    team.close();
}

#[test]
fn a_packet_that_the_kernel_does_not_send_is_dropped_for_its_service() {
    let mut team = Team::new(1);
    let out = team.send(0, &request(40_000, b"request"));
    team.port(0).set_most_frames(1);
    let source = format!("172.16.1.103:{}", ports(&out[0]).0);
    let long = builder::udp(Addresses::raw(BACKEND, &source), &[7; 1_400]);
    let frames = crate::testing::CHUNK;
    assert!(long.len() < frames, "one frame, {frames} bytes");
    assert_eq!(team.send(0, &long).len(), 1);
    let mut snapshot = snapshot(2);
    snapshot.mtu = 9_000;
    team.inboxes[0].publish(Arc::new(snapshot));
    team.settle();
    let longer = builder::udp(Addresses::raw(BACKEND, &source), &[7; 8_000]);
    assert_eq!(team.send(0, &longer).len(), 0);
    assert_eq!(dropped(&team, DropReason::TxRefused), [1, 0]);
    assert_eq!(traffic(&team, outbound), [(1, 1_428); 2]);
    team.close();
}

#[test]
fn a_request_for_a_full_handoff_ring_is_dropped_for_its_service() {
    let mut team = Team::new(2);
    // Of these clients some are the other worker's.
    for port in 40_000..40_100 {
        assert!(team.port(0).push_packet(&request(port, b"request")));
    }
    for _ in 0..4 {
        team.step(0);
    }
    let [of_service, of_none] = dropped(&team, DropReason::HandoffFull);
    assert!(of_service > 20, "{of_service}");
    assert_eq!(of_none, 0);
    team.settle();
    assert_eq!(traffic(&team, inbound)[0].0, 100 - of_service);
    team.close();
}
