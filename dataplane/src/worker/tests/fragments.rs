//! Fragments that wait in a worker for the first one of their datagram.

use super::*;

fn fragments(client_port: u16, id: u16) -> Vec<Vec<u8>> {
    builder::fragments(&request(client_port, &[5; 9_000]), false, 1_480, id)
}

#[test]
fn fragments_wait_for_their_first_one_and_leave_behind_it() {
    for workers in [1, 2, 3] {
        let mut team = Team::new(workers);
        for (id, enters) in (0..20).zip((0..usize::from(workers)).cycle()) {
            let all = fragments(40_000 + id, id);
            for fragment in all[1..].iter().rev() {
                assert_eq!(team.send(enters, fragment).len(), 0);
            }
            let out = team.send(enters, &all[0]);
            assert_eq!(out.len(), all.len());
            assert_eq!(ports(&out[0]).1, 8081, "the first one leaves first");
            for packet in &out {
                validate::assert_valid(packet, false);
            }
        }
        assert_eq!(team.sum(|stats| &stats.fragments_waited), 20 * 6);
        assert_eq!(team.all_drops(), 0);
        team.close();
    }
}

/// All fragments come in one burst, the first one last.
#[test]
fn a_burst_may_hold_all_of_a_datagram() {
    let mut team = Team::new(1);
    let all = fragments(40_000, 1);
    for fragment in all.iter().rev() {
        assert!(team.port(0).push_packet(fragment));
    }
    team.step(0);
    assert_eq!(team.transmitted().concat().len(), all.len());
    team.close();
}

#[test]
fn fragments_that_wait_in_vain_are_counted_and_their_frames_are_released() {
    let mut team = Team::new(1);
    for fragment in &fragments(40_000, 1)[1..] {
        assert_eq!(team.send(0, fragment).len(), 0);
    }
    assert_eq!(team.port(0).free_frames(), FRAMES - 6);
    team.now = team.now + Duration::from_secs(3);
    team.settle();
    team.step(0);
    assert_eq!(team.drops(DropReason::FragmentUnmatched), 6);
    assert_eq!(team.port(0).free_frames(), FRAMES);
    team.close();
}

#[test]
fn a_worker_that_stops_gives_back_what_waits() {
    let mut team = Team::new(1);
    team.send(0, &fragments(40_000, 1)[3]);
    team.close();
}

#[test]
fn fragments_do_not_wait_where_few_frames_are_free() {
    let mut team = Team::new(1);
    team.port(0).set_transmit_room(0);
    let mut taken = Vec::new();
    while team.port(0).free_frames() >= LEAST_FREE {
        taken.push(team.port(0).allocate().unwrap());
    }
    team.send(0, &fragments(40_000, 1)[3]);
    assert_eq!(team.drops(DropReason::UmemExhausted), 1);
    for frame in taken {
        team.port(0).release(frame);
    }
    team.port(0).set_transmit_room(usize::MAX);
    team.close();
}
