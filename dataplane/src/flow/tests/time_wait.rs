//! Which SYN a backend takes that has the former connection of the port in TIME-WAIT.

use std::collections::HashMap;

use super::*;
use crate::flow::sequence::Sequence;
use crate::packet::{TcpFlags, TcpSegment};

/// A connection that has finished at second 100, with the client's next number and last timestamp.
fn finished(next: u32, timestamp: Option<u32>) -> Sequence {
    let mut sequence = Sequence::NEW;
    sequence.open(&TcpSegment {
        flags: TcpFlags(TcpFlags::SYN),
        sequence: next.wrapping_sub(1),
        acknowledgment: 0,
        payload: 0,
    });
    sequence.begin_time_wait(0, timestamp, at(100));
    sequence
}

/// RFC 9293 section 3.10.7.4 and RFC 6191 section 2, as Linux has them: `tcp_timewait_state_process`.
#[test]
fn a_syn_is_refused_that_could_be_an_old_one() {
    // The client's last number and timestamp, the SYN's, whether it is refused.
    let rows = [
        ((1_000, None), (1_001, None), false),
        ((1_000, None), (1_000, None), true),
        ((1_000, None), (999, None), true),
        ((1_000, None), (1_000 + (1 << 31), None), true),
        ((u32::MAX, None), (5, None), false),
        ((1_000, Some(50)), (999, Some(51)), false),
        ((1_000, Some(50)), (1_001, Some(49)), true),
        ((1_000, Some(50)), (999, Some(50)), true),
        ((1_000, Some(50)), (1_001, Some(50)), false),
        ((1_000, Some(u32::MAX)), (999, Some(3)), false),
        ((1_000, Some(50)), (1_001, None), false),
        ((1_000, Some(50)), (999, None), true),
        ((1_000, None), (1_001, Some(1)), false),
        ((1_000, None), (999, Some(1)), true),
    ];
    for (last, (sequence, timestamp), refused) in rows {
        let syn = SynNumbers { sequence, timestamp };
        assert_eq!(
            finished(last.0, last.1).refuses(&syn, at(110)),
            refused,
            "{last:?} {syn:?}"
        );
        assert!(
            !finished(last.0, last.1).refuses(&syn, at(161)),
            "TIME-WAIT is over"
        );
    }
}

#[test]
fn a_backend_that_did_not_close_first_takes_any_syn() {
    let syn = SynNumbers {
        sequence: 0,
        timestamp: None,
    };
    let mut sequence = finished(1_000, None);
    assert!(sequence.refuses(&syn, at(101)));
    sequence.note_reset(State::Established, Direction::Out);
    assert!(!sequence.refuses(&syn, at(101)), "a reset leaves nothing");
    assert!(!Sequence::NEW.refuses(&syn, at(101)));
}

/// A backend with the former connections of its ports in TIME-WAIT: `tcp_timewait_state_process` of Linux.
#[derive(Default)]
struct Backend(HashMap<u16, (u32, Option<u32>, Timestamp)>);

impl Backend {
    fn accepts(&self, port: u16, syn: &SynNumbers, now: Timestamp) -> bool {
        let Some(&(next, recent, since)) = self.0.get(&port) else {
            return true;
        };
        let ahead = |to: u32, from: u32| to.wrapping_sub(from).cast_signed();
        now.since(since) >= Duration::from_secs(60)
            || match (syn.timestamp, recent) {
                (Some(timestamp), Some(recent)) if ahead(timestamp, recent) < 0 => false,
                (Some(timestamp), Some(recent)) if ahead(timestamp, recent) > 0 => true,
                _ => ahead(syn.sequence, next) > 0,
            }
    }
}

/// Clients whose clocks differ as those of hosts do, at a rate far above 22,528 ports in 60 s. Returns how many of the
/// SYNs the backend refuses, and how many go without timestamps. Ports are chosen for the SYN, or else by age alone.
fn refused(hosts: u32, timestamps: bool, informed: bool, pick: impl Fn(u64) -> u32) -> (u32, u32) {
    const RATE: u64 = 2_000;
    let mut table = FlowTable::new(1_000_000, PORTS, SEED).unwrap();
    let mut backend = Backend::default();
    let (mut refused, mut untimed) = (0, 0);
    for nth in 0..120 * RATE {
        let now = Timestamp::from_duration(Duration::from_micros(nth * 1_000_000 / RATE));
        let host = pick(random(nth)) % hosts;
        let millis = u32::try_from(now.0 / 1_000_000).unwrap();
        // As Linux chooses them: timestamps by the pair of hosts, sequence numbers by the connection.
        let own = u32::try_from(random(u64::from(host) << 32) >> 32).unwrap();
        let syn = SynNumbers {
            sequence: u32::try_from(random(!nth) >> 32).unwrap(),
            timestamp: timestamps.then_some(own.wrapping_add(millis)),
        };
        let new = NewFlow {
            client: new_flow(host, 1).client,
            client_port: u16::try_from(nth % 50_000).unwrap(),
            service_port: u16::try_from(nth / 50_000).unwrap(),
            syn: informed.then_some(syn),
            ..new_flow(host, 1)
        };
        let room = table.make_room(&new, now, random(nth), |_| true).unwrap();
        for id in [room.replaced, room.reclaimed].into_iter().flatten() {
            table.close(id);
        }
        let id = table.insert(&new, room.nat_port, now).unwrap();
        let sent = SynNumbers {
            timestamp: syn.timestamp.filter(|_| !room.untimed),
            ..syn
        };
        untimed += u32::from(room.untimed);
        refused += u32::from(!backend.accepts(room.nat_port, &sent, now));

        let end = syn.sequence.wrapping_add(500);
        table.touch(id, State::Finished, now, Duration::from_secs(240));
        let sequence = &mut table.entry_mut(id).sequence;
        sequence.open(&TcpSegment {
            flags: TcpFlags(TcpFlags::SYN),
            sequence: end.wrapping_sub(1),
            acknowledgment: 0,
            payload: 0,
        });
        sequence.begin_time_wait(0, sent.timestamp, now);
        backend.0.insert(room.nat_port, (end, sent.timestamp, now));
    }
    (refused, untimed)
}

#[test]
fn no_syn_is_refused_for_a_former_connection_in_time_wait() {
    // Many hosts, and two of which one opens a connection in a hundred: all ports are the other one's.
    let even = |random: u64| (random >> 40) as u32;
    let rare = |random: u64| u32::from((random >> 40).is_multiple_of(100));
    let (uninformed, _) = refused(64, false, false, even);
    assert!(
        uninformed > 100_000,
        "half of those behind the first 22,528: {uninformed}"
    );
    assert_eq!(refused(64, false, true, even), (0, 0));
    let (refused_of_many, untimed) = refused(64, true, true, even);
    assert_eq!(refused_of_many, 0);
    assert!(untimed < 100, "hardly ever: {untimed}");
    for hosts in [1, 2] {
        let (refused, untimed) = refused(hosts, true, true, rare);
        assert_eq!(refused, 0);
        assert!(untimed < 2_400, "only the rare host's: {untimed}");
    }
}
