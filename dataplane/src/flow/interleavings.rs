//! All interleavings of workers that share the words of overflow and of placed flows, by the model checker. See
//! `vl3lb_common::sync`.

use std::sync::Arc;

use loom::thread;
use vl3lb_common::snapshot::Generation;
use vl3lb_common::{BackendSlot, Duration, ServiceSlot, Timestamp};

use super::overflow::{Guest, Overflow};
use super::placed::{OwnPlaced, PlacedFlows};

const SERVICE: ServiceSlot = ServiceSlot(0);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_duration(Duration::from_secs(seconds))
}

fn guest(client: u8) -> Guest {
    Guest::new(&[client; 16], SERVICE)
}

/// Two clients that meet at one place of the table.
fn neighbours() -> (Guest, Guest) {
    let first = guest(1);
    let second = (2..=u8::MAX).map(guest).find(|second| second.meets(first));
    (first, second.expect("there are few places"))
}

/// The home says so before it passes a packet on: the worker that gets it finds the backend, and counts the flows at home.
#[test]
fn a_worker_finds_the_backend_and_the_flows_of_a_client_that_overflows() {
    loom::model(|| {
        let overflow = Arc::new(Overflow::default());
        let home = {
            let overflow = Arc::clone(&overflow);
            thread::spawn(move || assert!(overflow.begin(guest(1), BackendSlot(4), 7, at(1))))
        };
        if let Some(backend) = overflow.backend(guest(1)) {
            assert_eq!(backend, BackendSlot(4));
            assert_eq!(overflow.flows(guest(1)), 7, "as of the packet that was passed on");
        }
        home.join().unwrap();
        assert_eq!(overflow.backend(guest(1)), Some(BackendSlot(4)));
    });
}

/// One home begins an entry where another one ends its own: neither clears nor keeps the other's.
#[test]
fn a_place_is_one_clients_whoever_comes_and_goes() {
    let (first, second) = neighbours();
    loom::model(move || {
        let overflow = Arc::new(Overflow::default());
        assert!(overflow.begin(first, BackendSlot(4), 1, at(1)));
        let leaves = {
            let overflow = Arc::clone(&overflow);
            thread::spawn(move || overflow.goes_on(first, 1, at(100)))
        };
        let has_begun = overflow.begin(second, BackendSlot(5), 1, at(100));
        let goes_on = leaves.join().unwrap();
        let backends = [overflow.backend(first), overflow.backend(second)];
        if has_begun {
            assert_eq!(backends, [None, Some(BackendSlot(5))]);
        } else {
            assert_eq!(backends, [goes_on.then_some(BackendSlot(4)), None]);
        }
    });
}

#[test]
fn of_two_clients_that_begin_at_one_place_one_has_it() {
    let (first, second) = neighbours();
    loom::model(move || {
        let overflow = Arc::new(Overflow::default());
        let begins = {
            let overflow = Arc::clone(&overflow);
            thread::spawn(move || overflow.begin(first, BackendSlot(4), 1, at(1)))
        };
        let second_has = overflow.begin(second, BackendSlot(5), 1, at(1));
        let first_has = begins.join().unwrap();
        assert!(first_has != second_has, "{first_has} {second_has}");
        assert_eq!(overflow.backend(first), first_has.then_some(BackendSlot(4)));
        assert_eq!(overflow.backend(second), second_has.then_some(BackendSlot(5)));
    });
}

/// Flows away from home are counted by the workers that have them, and by none twice.
#[test]
fn no_flow_away_from_home_is_lost_in_the_count() {
    loom::model(|| {
        let overflow = Arc::new(Overflow::default());
        assert!(overflow.begin(guest(1), BackendSlot(4), 0, at(1)));
        let workers = [0, 1].map(|number| {
            let overflow = Arc::clone(&overflow);
            thread::spawn(move || {
                overflow.opened(guest(1));
                if number == 0 {
                    overflow.closed(guest(1));
                }
            })
        });
        let seen = overflow.flows(guest(1));
        assert!(seen <= 2, "{seen}");
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(overflow.flows(guest(1)), 1);
        assert!(overflow.goes_on(guest(1), 0, at(100)), "one is open");
        overflow.closed(guest(1));
        assert!(!overflow.goes_on(guest(1), 0, at(200)));
    });
}

/// The former rule is forgotten by a look from another worker only after the last flow under it has left.
#[test]
fn a_former_rule_is_not_forgotten_while_a_flow_is_under_it() {
    loom::model(|| {
        let all = Arc::new(PlacedFlows::new(2));
        let [own, other] = [0, 1].map(|worker| OwnPlaced::new(Arc::clone(&all), worker));
        other.switched(Generation(2));
        let owner = thread::spawn(move || {
            // Under the rule of the first snapshot, then under that of the second.
            own.count(SERVICE, false, |flows| flows + 1);
            own.switched(Generation(2));
            own.count(SERVICE, true, |flows| flows + 1);
            own
        });
        assert!(
            !all.are_gone(SERVICE, false, Generation(2)),
            "forgotten with a flow under it"
        );
        let own = owner.join().unwrap();
        own.count(SERVICE, false, |flows| flows - 1);
        assert!(all.are_gone(SERVICE, false, Generation(2)));
        assert!(!all.are_gone(SERVICE, true, Generation(2)));
    });
}
